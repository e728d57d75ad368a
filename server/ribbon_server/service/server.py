"""The gRPC server on a Unix socket that only its owner may open."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from ribbon_server.errors import BadSetting
from ribbon_server.pb import health_pb2_grpc, shard_pb2_grpc
from ribbon_server.service.health import Health
from ribbon_server.service.servicer import ShardServicer

MAX_MESSAGE_BYTES = 256 * 2**20  # gRPC's 4 MiB are too few for the histories of a whole batch
CALL_THREADS = 8  # one Run, health watchers, and room to refuse a second Run
PRIVATE = 0o600
LONGEST_SOCKET_PATH = 107  # bytes, sun_path of sockaddr_un


def start_server(servicer: ShardServicer, health: Health, uds_path: Path) -> grpc.Server:
    """Listens on `uds_path`, mode 0600.

    Raises:
        BadSetting: The socket cannot be made there.
    """
    check_socket_path(uds_path)
    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ]
    server = grpc.server(ThreadPoolExecutor(CALL_THREADS, "calls"), options=options)
    shard_pb2_grpc.add_ShardServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    earlier = os.umask(0o177)  # the socket must never be open to others, not even for a moment
    try:
        server.add_insecure_port(f"unix:{uds_path}")
    except RuntimeError as error:
        raise BadSetting(f"`--uds-path` {uds_path} cannot be listened on ({error})") from error
    finally:
        os.umask(earlier)
    uds_path.chmod(PRIVATE)
    server.start()
    return server


def check_socket_path(path: Path) -> None:
    """Refuses a path where no socket can be.

    Raises:
        BadSetting: Its directory does not exist, it is too long, or it is taken.
    """
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise BadSetting(f"`--uds-path` {path} has more than {LONGEST_SOCKET_PATH} bytes; give a shorter path")
    if not path.parent.is_dir():
        raise BadSetting(f"`--uds-path` {path}: {path.parent} is no directory; make it first")
    if path.exists() and not (path.is_socket() and not _is_listening(path)):
        raise BadSetting(f"`--uds-path` {path} is taken; give another path or remove it")


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
