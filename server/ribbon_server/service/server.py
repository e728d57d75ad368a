"""The gRPC server on a Unix socket that only its owner may open."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from ribbon_server.config import check_socket_path
from ribbon_server.errors import BadSetting
from ribbon_server.pb import health_pb2_grpc, shard_pb2_grpc
from ribbon_server.service.health import Health
from ribbon_server.service.servicer import ShardServicer

MAX_MESSAGE_BYTES = 256 * 2**20  # gRPC's 4 MiB are too few for the histories of a whole batch
CALL_THREADS = 8  # one Run, health watchers, and room to refuse a second Run
PRIVATE = 0o600


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
