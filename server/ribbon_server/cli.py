"""The command line of the shard: `download` and `serve`. Turns words into a config and errors into exit codes."""

import argparse
import json
import logging
import sys
from pathlib import Path

from ribbon_server.config import (
    DType,
    InjectedFaults,
    ServeConfig,
    check_socket_path,
    parse_allocation_failures,
    parse_kv_memory,
    set_thread_environment,
)
from ribbon_server.distributed.sharding import Rank, place_of
from ribbon_server.errors import BadSetting, ShardError
from ribbon_server.lifeline import Lifeline
from ribbon_server.telemetry import log, phase, set_up_logging

OPERATORS_MISTAKE = 2
OUR_MISTAKE = 1


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; exits 0, 2 for the operator's mistake, 1 for ours."""
    options = build_parser().parse_args(arguments)
    set_up_logging(options.logger_level.upper())
    try:
        options.run(options)
    except ValueError as error:  # every operator's mistake is one
        log(logging.ERROR, str(error))
        sys.exit(OPERATORS_MISTAKE)
    except ShardError as error:
        log(logging.ERROR, str(error))
        sys.exit(OUR_MISTAKE)


def build_parser() -> argparse.ArgumentParser:
    """Both commands and their flags."""
    parser = argparse.ArgumentParser(prog="ribbon-server", description="One shard of a Ribbon server.")
    commands = parser.add_subparsers(required=True, metavar="download|serve")
    _add_download(commands.add_parser("download", help="resolve a model to a local directory"))
    _add_serve(commands.add_parser("serve", help="serve a model to a router over gRPC"))
    return parser


def _add_download(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model-id", help="bundled model by default; a local directory or a Hub id")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub model")
    parser.add_argument("--json-output", action="store_true", help="kept for the launcher: the log is always JSON")
    parser.add_argument("--logger-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.set_defaults(run=download)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model-path", required=True, type=Path, help="directory with config.json and safetensors weights"
    )
    parser.add_argument("--model-id", required=True, help="name of the model, for the log")
    parser.add_argument("--revision", default="", help="resolved commit of a Hub model")
    parser.add_argument("--uds-path", required=True, type=Path, help="Unix socket to listen on")
    parser.add_argument("--generation", required=True, type=int, help="number of this start, counted by the launcher")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument(
        "--pipeline-parallel-size", type=int, default=1, help="stages of a pipeline, of equally many ranks each"
    )
    parser.add_argument(
        "--meeting-point", type=Path, help="empty file where the ranks of this generation find each other"
    )
    parser.add_argument("--dtype", type=DType, choices=list(DType), help="the checkpoint's by default")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; CUDA where torch sees one by default")
    parser.add_argument("--kv-memory", help="bytes, a size such as 512MiB, or a fraction of memory")
    parser.add_argument("--step-log", type=Path, help="file that gets one JSON line a step")
    parser.add_argument("--test-crash-token", type=int, help="tests only: a prompt with this token kills the shard")
    parser.add_argument(
        "--test-fail-allocations",
        metavar="P,SEED",
        help="tests only: no page can be had in this share of the steps that need some",
    )
    parser.add_argument("--logger-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.set_defaults(run=serve)


def download(options: argparse.Namespace) -> None:
    """Prints where the model lies, as one JSON line."""
    from ribbon_server.download.resolve import resolve

    found = resolve(options.model_id, options.revision)
    sys.stdout.write(
        json.dumps({"model_path": str(found.model_path), "model_id": found.model_id, "revision": found.revision}) + "\n"
    )


def serve(options: argparse.Namespace) -> None:
    """Loads the model and serves it until the launcher goes or says so."""
    config = serve_config(options)
    num_threads = set_thread_environment(config.world_size)
    lifeline = Lifeline()
    with phase("import"):
        from ribbon_server.process import run_shard
    run_shard(config, num_threads, lifeline)


def serve_config(options: argparse.Namespace) -> ServeConfig:
    """Checked settings.

    Raises:
        BadSetting: A flag that cannot be meant.
    """
    check_ranks(options)
    if options.generation < 0:
        raise BadSetting(f"`--generation` is {options.generation}; it counts from 0")
    check_socket_path(options.uds_path)
    return ServeConfig(
        model_path=options.model_path,
        model_id=options.model_id,
        revision=options.revision,
        uds_path=options.uds_path,
        generation=options.generation,
        rank=options.rank,
        world_size=options.world_size,
        num_stages=options.pipeline_parallel_size,
        meeting_point=options.meeting_point,
        dtype=options.dtype,
        device=options.device,
        kv_memory=None if options.kv_memory is None else parse_kv_memory(options.kv_memory),
        step_log=options.step_log,
        faults=injected_faults(options),
        logger_level=options.logger_level,
    )


def check_ranks(options: argparse.Namespace) -> None:
    """Refuses a rank that does not exist, ranks that do not make the stages, and those that could not find each other.

    Raises:
        BadSetting: One of them.
    """
    if not 0 <= options.rank < options.world_size:
        raise BadSetting(f"`--rank` is {options.rank}; ranks count from 0 and `--world-size` is {options.world_size}")
    place_of(Rank(options.rank, options.world_size), options.pipeline_parallel_size)
    if options.world_size > 1 and options.meeting_point is None:
        raise BadSetting(f"`--world-size` is {options.world_size}; give all ranks the same `--meeting-point`")


def injected_faults(options: argparse.Namespace) -> InjectedFaults:
    """What the test flags ask for.

    Raises:
        BadSetting: A flag that cannot be meant.
    """
    rate, seed = parse_allocation_failures(options.test_fail_allocations or "0,0")
    return InjectedFaults(options.test_crash_token, rate, seed)
