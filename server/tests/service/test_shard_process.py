"""The shard as the launcher and the router meet it: a real process, a real socket, a real gRPC client."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from client import SERVER, ShardProcess, Stream, decoding, opening, ops, u32, work
from tiny import TinyModel

from ribbon_server.engine.step import RowStatus, Wanted
from ribbon_server.kv.ribbons import OpKind
from ribbon_server.pb import health_pb2, health_pb2_grpc, shard_pb2_grpc
from ribbon_server.pb import shard_pb2 as pb

PROMPT = [5, 9, 77, 31, 8]
CRASH_TOKEN = 123


@pytest.fixture(scope="module")
def shard(tiny_untied: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardProcess]:
    """One warm shard for the tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("shard")
    process = ShardProcess(tiny_untied.folder, folder / "s.sock", "--step-log", str(folder / "steps.jsonl"))
    process.wait_listening()
    yield process
    process.kill()


@pytest.fixture(scope="module")
def stub(shard: ShardProcess) -> Iterator[shard_pb2_grpc.ShardStub]:
    with shard.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        stub = shard_pb2_grpc.ShardStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not stub.Describe(pb.DescribeRequest()).kv_groups
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Run(iter(())))
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        stub.Warmup(pb.WarmupRequest(max_concurrent_requests=8, max_batch_prefill_tokens=64, max_total_tokens=200))
        yield stub


def tokens_of(outcomes: list[pb.StepOutcome]) -> list[int]:
    return [int(np.frombuffer(outcome.token_id, np.uint32)[0]) for outcome in outcomes]


def close_and_end(stream: Stream, step_id: int, slot: int) -> None:
    """Closes the slot, ends the stream, and sees it end well."""
    stream.send(pb.StepPlan(step_id=step_id, ops=ops((OpKind.CLOSE, slot, 0, 0))))
    stream.receive()
    stream.end()
    assert list(stream.call) == []


def test_the_socket_is_its_owners_alone(shard: ShardProcess) -> None:
    assert stat.S_IMODE(os.stat(shard.socket).st_mode) == 0o600


def test_the_launcher_is_told_the_phases(shard: ShardProcess) -> None:
    assert [event.get("phase", event["event"]) for event in shard.events] == ["import", "load_weights", "listening"]


def test_the_warm_shard_describes_itself(stub: shard_pb2_grpc.ShardStub, shard: ShardProcess) -> None:
    answer = stub.Describe(pb.DescribeRequest())
    group = answer.kv_groups[0]
    assert (answer.architecture, answer.vocab_size, answer.max_positions) == ("LlamaForCausalLM", 160, 512)
    assert (answer.generation, answer.world_size, list(answer.eos_token_ids)) == (1, 1, [2])
    assert (group.slot_tokens, group.num_layers, group.stride_bytes) == (200, 3, 3 * 2 * 2 * 16 * 4)
    assert group.num_pages == 64 * 2**20 // group.page_bytes
    assert group.num_slots > 8
    assert group.num_storages >= 2 * 8
    with shard.channel() as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING


def test_a_second_warmup_is_refused(stub: shard_pb2_grpc.ShardStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Warmup(pb.WarmupRequest(max_concurrent_requests=8))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_a_pipelined_stream_gives_the_tokens_of_one_sent_step_by_step(stub: shard_pb2_grpc.ShardStub) -> None:
    pipelined, patient = Stream(stub), []
    pipelined.send(opening(1, 1, PROMPT), decoding(2, 1))
    outcomes = []
    for step_id in range(3, 11):
        outcomes.append(pipelined.receive())
        pipelined.send(decoding(step_id, 1))
    outcomes += [pipelined.receive(), pipelined.receive()]
    assert [outcome.step_id for outcome in outcomes] == list(range(1, 11))
    close_and_end(pipelined, 11, 1)
    stream = Stream(stub)
    for step_id in range(1, 11):
        stream.send(opening(1, 1, PROMPT) if step_id == 1 else decoding(step_id, 1))
        patient.append(stream.receive())
    close_and_end(stream, 11, 1)
    assert tokens_of(outcomes) == tokens_of(patient)
    assert outcomes[0].timings.forward_ns > 0


def test_the_end_of_a_stream_gives_every_page_back(stub: shard_pb2_grpc.ShardStub) -> None:
    for _ in range(2):  # the second stream opens the same slot and storage
        stream = Stream(stub)
        stream.send(opening(1, 3, PROMPT))
        assert stream.receive().failure == ""
        stream.end()
        assert list(stream.call) == []


def test_a_client_that_vanishes_frees_the_shard(stub: shard_pb2_grpc.ShardStub) -> None:
    stream = Stream(stub)
    stream.send(opening(1, 2, PROMPT))
    stream.receive()
    stream.call.cancel()
    deadline = time.monotonic() + 60
    while (again := first_step(stub)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    close_and_end(again, 2, 2)


def first_step(stub: shard_pb2_grpc.ShardStub) -> Stream | None:
    """A stream whose first step went well; None where the shard still has another one."""
    stream = Stream(stub)
    stream.send(opening(1, 2, PROMPT))
    try:
        failure = stream.receive().failure
    except grpc.RpcError:
        return None
    assert failure == ""
    return stream


def test_a_second_stream_is_refused_while_one_lives(stub: shard_pb2_grpc.ShardStub) -> None:
    first, second = Stream(stub), Stream(stub)
    first.send(opening(1, 1, PROMPT))
    first.receive()
    with pytest.raises(grpc.RpcError) as caught:
        second.receive()
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    second.end()
    close_and_end(first, 2, 1)


def test_a_step_out_of_order_ends_the_stream(stub: shard_pb2_grpc.ShardStub) -> None:
    stream = Stream(stub)
    stream.send(decoding(2, 1))
    with pytest.raises(grpc.RpcError) as caught:
        stream.receive()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "step_id is 2; the next one is 1" in caught.value.details()
    stream.end()


BAD_PLANS = {
    "half a value": (
        pb.StepPlan(step_id=1, work=pb.Work(slot=b"\1\0\0\0\2", count=u32(1), wanted=b"\1")),
        "`work.slot` has 5 bytes",
    ),
    "columns of two lengths": (
        pb.StepPlan(step_id=1, work=pb.Work(slot=u32(1, 2), count=u32(1), wanted=b"\1\1")),
        "columns of `work` have [2, 1, 2] rows",
    ),
    "operations of two lengths": (
        pb.StepPlan(step_id=1, ops=pb.RibbonOps(kind=b"\1\1"), work=work((1, 1, 1))),
        "columns of `ops`",
    ),
    "another group": (
        pb.StepPlan(
            step_id=1,
            ops=pb.RibbonOps(kind=b"\1", group=b"\3", slot=u32(1), storage=u32(1), tokens=u32(0)),
            work=work((1, 1, 1)),
        ),
        "group is 3; this shard has groups 0 to 0",
    ),
    "trim_front": (pb.StepPlan(step_id=1, ops=ops((OpKind.TRIM_FRONT, 2, 0, 1)), work=work((1, 1, 1))), "(trim_front)"),
}


@pytest.mark.parametrize("name", BAD_PLANS)
def test_a_plan_that_cannot_be_meant_fails_and_the_stream_lives(stub: shard_pb2_grpc.ShardStub, name: str) -> None:
    plan, message = BAD_PLANS[name]
    stream = Stream(stub)
    stream.send(plan)
    outcome = stream.receive()
    assert message in outcome.failure
    assert set(outcome.status) == {RowStatus.FAILED}
    stream.send(opening(2, 1, PROMPT))
    assert list(stream.receive().status) == [RowStatus.SAMPLED]
    close_and_end(stream, 3, 1)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (pb.Sampling(temperature=-1.0), "`temperature` is -1.0"),
        (pb.Sampling(temperature=float("nan")), "`temperature` is nan"),
        (pb.Sampling(top_p=1.5), "`top_p` is 1.5"),
        (pb.Sampling(min_p=2.0), "`min_p` is 2.0"),
        (pb.Sampling(count_penalty=float("inf")), "`count_penalty` is inf"),
        (pb.Sampling(bias_token_ids=u32(1, 2), bias_values=u32(0)), "columns of `bias`"),
    ],
)
def test_parameters_that_cannot_be_meant_fail_their_row_alone(
    stub: shard_pb2_grpc.ShardStub, sampling: pb.Sampling, message: str
) -> None:
    good, bad = opening(1, 1, PROMPT), opening(1, 2, PROMPT, sampling=sampling)
    good.MergeFrom(pb.StepPlan(admitted=bad.admitted))
    good.ops.CopyFrom(
        ops((OpKind.OPEN, 1, 1, 0), (OpKind.GROW, 1, 0, 9), (OpKind.OPEN, 2, 2, 0), (OpKind.GROW, 2, 0, 9))
    )
    good.work.CopyFrom(work((1, len(PROMPT), Wanted.SAMPLE), (2, len(PROMPT), Wanted.SAMPLE)))
    stream = Stream(stub)
    stream.send(good)
    outcome = stream.receive()
    assert list(outcome.status) == [RowStatus.SAMPLED, RowStatus.FAILED]
    assert [(error.row, message in error.message) for error in outcome.errors] == [(1, True)]
    stream.end()
    assert list(stream.call) == []


def test_a_history_above_the_usual_message_limit_is_read(stub: shard_pb2_grpc.ShardStub) -> None:
    plan = opening(1, 1, PROMPT)
    plan.admitted[0].token_ids = bytes(8 * 2**20)
    stream = Stream(stub)
    stream.send(plan)
    assert "a slot takes 1 to 200" in stream.receive().errors[0].message
    stream.end()
    assert list(stream.call) == []


def test_stop_tokens_and_top_tokens_cross_the_wire(stub: shard_pb2_grpc.ShardStub) -> None:
    stream = Stream(stub)
    stream.send(opening(1, 1, PROMPT, sampling=pb.Sampling(greedy=True, top_tokens=3)), decoding(2, 1))
    first, second = stream.receive(), stream.receive()
    assert list(first.top_count) == [3]
    assert np.frombuffer(first.top_token_id, np.uint32)[0] == tokens_of([first])[0]
    assert np.frombuffer(first.top_logprob, np.float32)[0] == np.frombuffer(first.logprob, np.float32)[0]
    close_and_end(stream, 3, 1)
    stream = Stream(stub)
    stop = tokens_of([second])[0]
    stream.send(opening(1, 1, PROMPT, stop_token_ids=u32(stop)), decoding(2, 1), decoding(3, 1))
    statuses = [next(iter(stream.receive().status)) for _ in range(3)]
    assert statuses == [RowStatus.SAMPLED, RowStatus.STOPPED, RowStatus.ENDED]
    close_and_end(stream, 4, 1)


def test_prompt_logprobs_cross_the_wire(stub: shard_pb2_grpc.ShardStub) -> None:
    stream = Stream(stub)
    plan = opening(1, 1, PROMPT, sampling=pb.Sampling(greedy=True, prompt_top_tokens=2))
    plan.work.wanted = bytes([Wanted.SAMPLE | Wanted.PROMPT_LOGPROBS])
    stream.send(plan, decoding(2, 1))
    first, second = stream.receive(), stream.receive()
    assert np.frombuffer(first.prompt_count, np.uint32).tolist() == [len(PROMPT) - 1]
    assert (np.frombuffer(first.prompt_logprob, np.float32) < 0).all()
    assert list(first.prompt_top_count) == [2] * (len(PROMPT) - 1)
    sizes = (first.prompt_logprob, first.prompt_top_token_id, first.prompt_top_logprob)
    assert [len(column) for column in sizes] == [4 * 4, 8 * 4, 8 * 4]
    assert first.status == bytes([RowStatus.SAMPLED])
    assert second.prompt_count == b""
    close_and_end(stream, 3, 1)


def test_the_step_log_tells_pipelined_plans_from_patient_ones(
    stub: shard_pb2_grpc.ShardStub, shard: ShardProcess
) -> None:
    path = shard.socket.parent / "steps.jsonl"
    before = len(path.read_text().splitlines())
    stream = Stream(stub)
    eager = range(2, 40)
    stream.send(opening(1, 1, PROMPT), *(decoding(step_id, 1) for step_id in eager))
    for _ in range(1 + len(eager)):
        stream.receive()
    stream.send(decoding(40, 1))  # all answers are in: a patient plan
    stream.receive()
    close_and_end(stream, 41, 1)
    steps = [json.loads(line) for line in path.read_text().splitlines()[before:]]
    shapes = [(step["rows"], step["tokens"], step["chunk_rows"], step["decode_rows"]) for step in steps]
    assert shapes == [(1, 5, 1, 0), *[(1, 1, 0, 1)] * 39, (0, 0, 0, 0)]
    waited_for = [step["received_ns"] < step["previous_outcome_sent_ns"] for step in steps]
    assert any(waited_for[1:-2])  # how many is the machine's affair; the patient ones are none of them
    assert not any(waited_for[-2:])
    assert all(step["started_ns"] < step["ended_ns"] for step in steps)
    assert steps[0]["pages_used"] > 0
    assert steps[-1]["pages_used"] == 0


def test_the_shard_leaves_when_the_launcher_is_gone(tiny_untied: TinyModel, tmp_path: Path) -> None:
    process = ShardProcess(tiny_untied.folder, tmp_path / "s.sock")
    process.wait_listening()
    process.process.stdin.close()
    assert process.finish() == 0


@pytest.mark.parametrize("farewell", ["stdin", "sigterm"])
def test_a_shard_that_is_still_starting_leaves_too(tiny_untied: TinyModel, tmp_path: Path, farewell: str) -> None:
    process = ShardProcess(tiny_untied.folder, tmp_path / "s.sock")
    process.wait_handling(signal.SIGTERM)  # the imports begin
    process.process.stdin.close() if farewell == "stdin" else process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0


def test_the_shard_leaves_on_sigterm_in_mid_stream_and_dies_for_the_test_hook(
    tiny_untied: TinyModel, tmp_path: Path
) -> None:
    process = ShardProcess(tiny_untied.folder, tmp_path / "s.sock", "--test-crash-token", str(CRASH_TOKEN))
    process.wait_listening()
    with process.channel() as channel:
        stub = shard_pb2_grpc.ShardStub(channel)
        stub.Warmup(pb.WarmupRequest(max_concurrent_requests=2, max_batch_prefill_tokens=64))
        stream = Stream(stub)
        stream.send(
            opening(1, 1, [CRASH_TOKEN, 5]), opening(2, 2, [5, 6]), *(decoding(step, 1, 2) for step in range(3, 9))
        )
        received: list[pb.StepOutcome] = []
        with pytest.raises(grpc.RpcError):
            received.extend(stream.call)
        stream.end()
    assert process.finish() == -signal.SIGKILL
    assert len(received) <= 6  # steps 1, 3, 4, 5 and 6 give slot 1 five tokens; step 7 kills

    again = ShardProcess(tiny_untied.folder, tmp_path / "s.sock")  # the dead shard's socket file is no obstacle
    again.wait_listening()
    with again.channel() as channel:
        stub = shard_pb2_grpc.ShardStub(channel)
        stub.Warmup(pb.WarmupRequest(max_concurrent_requests=2, max_batch_prefill_tokens=64))
        stream = Stream(stub)
        stream.send(opening(1, 1, PROMPT))
        stream.receive()
        again.process.send_signal(signal.SIGTERM)
        assert again.finish() == 0
        stream.end()


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SERVER), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "ribbon_server", *arguments], env=environment, capture_output=True, text=True, timeout=60
    )


def serve_arguments(folder: Path, socket: Path, *flags: str) -> list[str]:
    return [
        "serve",
        "--model-path",
        str(folder),
        "--model-id",
        "m",
        "--uds-path",
        str(socket),
        "--generation",
        "0",
        *flags,
    ]


def test_a_corrupt_model_ends_with_one_clear_line_and_exit_2(model_copy: Path) -> None:
    (model_copy / "model.safetensors").write_bytes(b"no weights at all")
    process = ShardProcess(model_copy, model_copy / "s.sock")
    assert process.finish() == 2
    record = json.loads(process.log[-1])
    assert record["level"] == "ERROR"
    assert "not a readable safetensors file" in record["message"]
    assert "Traceback" not in "".join(process.log)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kv-memory", "lots"], "`--kv-memory` is 'lots'"),
        (["--kv-memory", "1.5"], "`--kv-memory` is '1.5'"),
        (["--world-size", "2"], "`--world-size` is 2; give all ranks the same `--meeting-point`"),
        (["--rank", "2", "--world-size", "2"], "`--rank` is 2; ranks count from 0"),
        (
            ["--pipeline-parallel-size", "2"],
            "`--pipeline-parallel-size` is 2; it has to divide the number of ranks, 1",
        ),
    ],
)
def test_a_flag_that_cannot_be_meant_is_named(tmp_path: Path, flags: list[str], message: str) -> None:
    result = run_cli(*serve_arguments(tmp_path, tmp_path / "s.sock", *flags))
    assert result.returncode == 2
    assert message in json.loads(result.stderr.splitlines()[-1])["message"]


@pytest.mark.parametrize("spoil", ["no directory", "too long", "taken"])
def test_a_socket_path_that_cannot_be_is_named(tiny_untied: TinyModel, tmp_path: Path, spoil: str) -> None:
    socket = {
        "no directory": tmp_path / "nowhere" / "s",
        "too long": tmp_path / ("s" * 100),
        "taken": tmp_path / "file",
    }[spoil]
    (tmp_path / "file").write_text("mine")
    result = run_cli(*serve_arguments(tiny_untied.folder, socket))
    assert result.returncode == 2
    assert "`--uds-path`" in json.loads(result.stderr.splitlines()[-1])["message"]
    assert (tmp_path / "file").read_text() == "mine"


def test_download_resolves_a_local_directory(model_copy: Path) -> None:
    (model_copy / "tokenizer.json").write_text("{}")
    result = run_cli("download", "--model-id", str(model_copy))
    assert result.returncode == 0
    answer = json.loads(result.stdout.splitlines()[-1])
    assert answer == {"model_path": str(model_copy.resolve()), "model_id": str(model_copy), "revision": ""}


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_download_names_what_a_directory_lacks(model_copy: Path, missing: str) -> None:
    (model_copy / "tokenizer.json").write_text("{}")
    (model_copy / missing).unlink()
    result = run_cli("download", "--model-id", str(model_copy))
    assert result.returncode == 2
    assert missing in json.loads(result.stderr.splitlines()[-1])["message"]


@pytest.mark.parametrize(
    "model_id", ["./nowhere", "/no/such/directory", "org/name-that-is-not-cached", "not a hub id!"]
)
def test_download_says_what_to_do_about_an_unknown_model(model_id: str) -> None:
    result = run_cli("download", "--model-id", model_id)
    assert result.returncode == 2
    record = json.loads(result.stderr.splitlines()[-1])
    assert model_id.split("/")[-1] in record["message"]
    assert "Traceback" not in result.stderr


def test_download_is_quick_and_needs_no_torch() -> None:
    code = "import sys; from ribbon_server import cli; from ribbon_server.download import resolve; resolve.resolve(None, None); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(SERVER)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
