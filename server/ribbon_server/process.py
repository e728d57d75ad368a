"""The life of a serving shard: load, listen, and leave when the launcher is gone. Wires rooms together; decides nothing."""

import logging
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from ribbon_server import _native
from ribbon_server.config import ServeConfig
from ribbon_server.layers.registry import native_kernels
from ribbon_server.models.open import Model, open_model
from ribbon_server.service.health import Health
from ribbon_server.service.server import start_server
from ribbon_server.service.servicer import ShardServicer
from ribbon_server.telemetry import emit_event, log, phase

GRACE_SECONDS = 1.0  # for the step that runs when the end is asked for


def run_shard(config: ServeConfig, num_threads: int) -> None:
    """Serves until SIGTERM or the end of stdin; then the process is gone.

    Raises:
        ValueError: The operator's mistakes, each with one clear line.
    """
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches the whole group; the launcher drains first
    threading.Thread(target=_watch_stdin, args=(leave,), name="stdin", daemon=True).start()
    compute = ThreadPoolExecutor(1, "compute", initializer=_use_threads, initargs=(num_threads,))
    with phase("load_weights"):
        model = compute.submit(_load, config).result()
    health = Health()
    server = start_server(ShardServicer(config, model, compute, health), health, config.uds_path)
    emit_event("listening")
    log(
        logging.INFO,
        f"listening with {num_threads} compute threads",
        threads=num_threads,
        cpu_features=_native.cpu_features(),
    )
    leave.wait()
    server.stop(GRACE_SECONDS).wait()
    _leave_now()


def _load(config: ServeConfig) -> Model:
    return open_model(config.model_path, config.dtype, native_kernels())


def _use_threads(num_threads: int) -> None:
    """Sizes both pools alike; they take turns on the same cores."""
    torch.set_num_threads(num_threads)
    _native.set_num_threads(num_threads)


def _watch_stdin(leave: threading.Event) -> None:
    """The launcher holds the other end; its end is ours. Reads past Python's buffer: its lock, held by a thread that
    waits, aborts an interpreter that wants to exit."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    leave.set()


def _leave_now() -> None:
    """Ends the process without waiting for threads that wait for others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
