"""The Shard service: what each call answers, and which gRPC code each error gets."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NoReturn, TypeVar

import grpc

from ribbon_server.config import ServeConfig
from ribbon_server.engine.limits import WarmupWish
from ribbon_server.engine.shard import WarmShard, warm_up
from ribbon_server.engine.step_log import StepLog
from ribbon_server.errors import Internal, InvalidRequest, ModelNotSupported, OutOfPages, ShardError, WeightsMismatch
from ribbon_server.models.open import Model
from ribbon_server.pb import shard_pb2 as pb
from ribbon_server.pb import shard_pb2_grpc
from ribbon_server.service.health import Health
from ribbon_server.service.stream import RunStream
from ribbon_server.service.wire import describe

CODES = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    OutOfPages: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ModelNotSupported: grpc.StatusCode.UNIMPLEMENTED,
    WeightsMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    Internal: grpc.StatusCode.INTERNAL,
}

Result = TypeVar("Result")


class ShardServicer(shard_pb2_grpc.ShardServicer):
    """One shard. Everything that computes runs in one thread, so that torch keeps one team of workers."""

    def __init__(self, config: ServeConfig, model: Model, compute: ThreadPoolExecutor, health: Health) -> None:
        """`compute` has a single worker; the model is loaded, not warm."""
        self._config = config
        self._model = model
        self._compute = compute
        self._health = health
        self._warm: WarmShard | None = None
        self._warming = threading.Lock()
        self._running = threading.Lock()
        self._step_log = StepLog(config.step_log) if config.step_log is not None else None

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.DescribeResponse:  # noqa: N802, ARG002
        """What the shard is; final after Warmup."""
        return self._description()

    def Warmup(self, request: pb.WarmupRequest, context: grpc.ServicerContext) -> pb.WarmupResponse:  # noqa: N802
        """Fixes the limits, once."""
        wish = WarmupWish(request.max_batch_prefill_tokens, request.max_total_tokens, request.max_concurrent_requests)
        with self._warming:
            if self._warm is not None:
                context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION, "this shard is warm already; Warmup runs once in its life"
                )
            self._warm = self._computed(
                context, lambda: warm_up(self._model, wish, self._config.kv_memory, self._config.faults)
            )
        self._health.set_serving()
        figures = self._warm.figures
        return pb.WarmupResponse(
            description=self._description(),
            max_batch_prefill_tokens=figures.budget,
            max_total_tokens=self._warm.engine.ribbons.limits.slot_tokens,
            slowest_step_ns=figures.slowest_step_ns,
            decode_step_ns=figures.decode_step_ns,
            prompt_token_ns=figures.prompt_token_ns,
            warmup_ns=figures.warmup_ns,
        )

    def Run(self, request_iterator: Iterator[pb.StepPlan], context: grpc.ServicerContext) -> Iterator[pb.StepOutcome]:  # noqa: N802
        """The hot path. One stream at a time; a second one is refused."""
        if self._warm is None:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "this shard is not warm; call Warmup first")
        if not self._running.acquire(blocking=False):
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "another Run stream lives; one shard has one")
        stream = RunStream(self._warm.engine, self._step_log)
        finished = self._start(stream, request_iterator, context)
        yield from stream.outcomes()
        finished.exception()  # waits until every slot is closed
        if stream.error:
            code = grpc.StatusCode.INTERNAL if stream.broke else grpc.StatusCode.INVALID_ARGUMENT
            context.abort(code, stream.error)

    def _start(
        self, stream: RunStream, messages: Iterator[pb.StepPlan], context: grpc.ServicerContext
    ) -> "Future[None]":
        """Starts the reader and the step loop; the stream's place is free again when the loop has ended."""
        context.add_callback(stream.client_gone)
        finished = self._compute.submit(stream.compute)
        finished.add_done_callback(lambda _: self._running.release())
        threading.Thread(target=stream.read, args=(messages,), name="plans", daemon=True).start()
        return finished

    def _computed(self, context: grpc.ServicerContext, work: Callable[[], Result]) -> Result:
        """Runs `work` in the compute thread; its errors become gRPC codes."""
        try:
            return self._compute.submit(work).result()
        except ShardError as error:
            _abort(context, error)

    def _description(self) -> pb.DescribeResponse:
        answer = describe(self._model, self._warm)
        answer.model_path = str(self._config.model_path)
        answer.revision = self._config.revision
        answer.rank, answer.world_size = self._config.rank, self._config.world_size
        answer.generation = self._config.generation
        return answer


def _abort(context: grpc.ServicerContext, error: ShardError) -> NoReturn:
    code = next((code for kind, code in CODES.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
    context.abort(code, str(error))
    raise AssertionError("abort raises")
