"""The ranks of a model on the CPUs of one machine, over gloo. Knows tensors and ranks; not layers, not who starts whom."""

import torch
from torch.distributed import ProcessGroupGloo, Store

from ribbon_server.distributed.backend import BackendWorld, Meeting
from ribbon_server.distributed.sharding import Rank

LOOPBACK = "127.0.0.1"


class GlooGroup(BackendWorld):
    """Ranks on the CPUs of one machine. They meet in a file and talk over the loopback address, so that nobody else can join."""

    def __init__(self, rank: Rank, meeting: Meeting) -> None:
        """Waits until all ranks are there.

        Raises:
            BadSetting: The ranks do not make so many equal stages.
            RankLost: Not all came in time.
        """

        def connect(store: Store, among: Rank) -> ProcessGroupGloo:
            options = ProcessGroupGloo._Options()
            options._devices = [ProcessGroupGloo.create_device(hostname=LOOPBACK)]
            options._timeout = meeting.timeout
            return ProcessGroupGloo(store, among.index, among.world_size, options)

        super().__init__(rank, meeting, torch.device("cpu"), connect)
