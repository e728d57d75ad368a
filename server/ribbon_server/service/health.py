"""The standard health service: SERVING once the shard is warm. Knows nothing of steps; the router judges those."""

import threading
from collections.abc import Iterator

import grpc

from ribbon_server.pb import health_pb2 as pb
from ribbon_server.pb import health_pb2_grpc

SERVICES = ("", "ribbon.shard.v1.Shard")
WATCH_SECONDS = 1.0


class Health(health_pb2_grpc.HealthServicer):
    """One state for the process and its one service."""

    def __init__(self) -> None:
        """Not serving yet."""
        self._changed = threading.Condition()
        self._status = pb.HealthCheckResponse.NOT_SERVING

    def set_serving(self) -> None:
        """The shard is warm."""
        with self._changed:
            self._status = pb.HealthCheckResponse.SERVING
            self._changed.notify_all()

    def Check(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> pb.HealthCheckResponse:  # noqa: N802
        """The state now."""
        if request.service not in SERVICES:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return pb.HealthCheckResponse(status=self._status)

    def Watch(self, request: pb.HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[pb.HealthCheckResponse]:  # noqa: N802
        """The state now and its changes, until the client leaves."""
        if request.service not in SERVICES:
            yield pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
            return
        told = None
        while context.is_active():
            if self._status != told:
                told = self._status
                yield pb.HealthCheckResponse(status=told)
            with self._changed:
                self._changed.wait_for(lambda: self._status != told, timeout=WATCH_SECONDS)  # noqa: B023
