"""A gRPC client of one shard process: starts it, speaks plans, reads outcomes. What a router does, without its brain."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np

from ribbon_server.engine.step import Wanted
from ribbon_server.kv.ribbons import OpKind
from ribbon_server.pb import shard_pb2 as pb
from ribbon_server.pb import shard_pb2_grpc

SERVER = Path(__file__).resolve().parents[2]


def u32(*values: int) -> bytes:
    return np.array(values, np.uint32).tobytes()


def ops(*rows: tuple[int, int, int, int]) -> pb.RibbonOps:
    """Columns of (kind, slot, storage, tokens) rows."""
    kind, slot, storage, tokens = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pb.RibbonOps(
        kind=bytes(kind), group=bytes(len(rows)), slot=u32(*slot), storage=u32(*storage), tokens=u32(*tokens)
    )


def work(*rows: tuple[int, int, int]) -> pb.Work:
    """Columns of (slot, count, wanted) rows."""
    slot, count, wanted = zip(*rows, strict=True) if rows else ((), (), ())
    return pb.Work(slot=u32(*slot), count=u32(*count), wanted=bytes(wanted))


def opening(step_id: int, slot: int, tokens: list[int], *, room: int = 32, **admission: object) -> pb.StepPlan:
    """Seats a greedy sequence and feeds its whole prompt."""
    admission.setdefault("sampling", pb.Sampling(greedy=True))
    return pb.StepPlan(
        step_id=step_id,
        admitted=[
            pb.Admission(slot=slot, sequence_id=slot, token_ids=u32(*tokens), prompt_tokens=len(tokens), **admission)
        ],
        ops=ops((OpKind.OPEN, slot, slot, 0), (OpKind.GROW, slot, 0, len(tokens) + room)),
        work=work((slot, len(tokens), Wanted.SAMPLE)),
    )


def decoding(step_id: int, *slots: int) -> pb.StepPlan:
    """Feeds each slot its last token."""
    return pb.StepPlan(step_id=step_id, work=work(*((slot, 1, Wanted.SAMPLE) for slot in slots)))


class Stream:
    """One Run stream, plans sent by hand."""

    def __init__(self, stub: shard_pb2_grpc.ShardStub) -> None:
        self._plans: queue.SimpleQueue[pb.StepPlan | None] = queue.SimpleQueue()
        self.call = stub.Run(self._iterate())

    def _iterate(self) -> Iterator[pb.StepPlan]:
        while (plan := self._plans.get()) is not None:
            yield plan

    def send(self, *plans: pb.StepPlan) -> None:
        for plan in plans:
            self._plans.put(plan)

    def receive(self) -> pb.StepOutcome:
        return next(self.call)

    def end(self) -> None:
        self._plans.put(None)


def caught_signals(pid: int) -> int:
    """Bit mask of the signals that a process handles; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)


class ShardProcess:
    """`ribbon-server serve` as the launcher starts it."""

    def __init__(self, folder: Path, socket: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "ribbon_server", "serve", "--model-path", str(folder), "--model-id", "tiny"]
        command += ["--uds-path", str(socket), "--generation", "1", "--kv-memory", "64MiB", *flags]
        environment = {**os.environ, "PYTHONPATH": str(SERVER), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)
        self.socket = socket
        self.log: list[str] = []
        self.events: list[dict[str, object]] = []
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        self.log.extend(self.process.stderr)

    def wait_listening(self) -> None:
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == "listening":
                return
        raise AssertionError("".join(self.log))

    def wait_handling(self, number: signal.Signals) -> None:
        """Until the process handles a signal itself; before that it would die of it."""
        deadline = time.monotonic() + 60
        while not caught_signals(self.process.pid) >> (number - 1) & 1:
            assert time.monotonic() < deadline, f"{number.name} is not handled"
            time.sleep(0.02)

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"unix:{self.socket}")

    def finish(self) -> int:
        """Waits for the end of a process that is about to leave."""
        code = self.process.wait(timeout=60)
        self._reader.join(timeout=60)
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
