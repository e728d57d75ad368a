"""The ranks of a model on the CUDA devices of one machine, over NCCL. Knows tensors and ranks; not layers, not who starts whom.

Calls return once they are in the stream of the device, as kernels do, and NCCL's own watchdog notices a lost rank only where it meets
an asynchronous error. What ends a group is the launcher, when one of its processes exits, and the router, when a step is over its deadline.
"""

import torch
from torch.distributed import ProcessGroupNCCL, Store

from ribbon_server.distributed.backend import BackendWorld, Meeting
from ribbon_server.distributed.sharding import Rank


class NcclGroup(BackendWorld):
    """Ranks with a CUDA device each. They meet in a file; what NCCL says over a network goes where `keep_to_loopback` said."""

    def __init__(self, rank: Rank, meeting: Meeting, device: torch.device) -> None:
        """Waits until all ranks are there. `device` is this rank's alone.

        Raises:
            BadSetting: The ranks do not make so many equal stages.
            RankLost: Not all came in time, or NCCL cannot work here.
        """

        def connect(store: Store, among: Rank) -> ProcessGroupNCCL:
            options = ProcessGroupNCCL.Options()
            options._timeout = meeting.timeout
            return ProcessGroupNCCL(store, among.index, among.world_size, options)

        super().__init__(rank, meeting, device, connect)
        # NCCL connects with the first call: what is wrong with it should come up before the weights are read.
        self.connect_all()
