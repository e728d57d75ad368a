"""The launcher's own decisions, with fakes in place of router and shard: start, restarts, drain, end."""

import json
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from launcher_support import processes_marked, wait_until


def types(heard):
    return [message["type"] for message in heard()]


def test_phases_and_address_are_logged_when_ready(fake):
    launcher = fake("--hostname", "127.0.0.1")
    match = launcher.wait_for(r"ready on (\S+) in \d+ ms \((.*) ms\)")
    assert match.group(1) == "http://127.0.0.1:4321"
    assert {part.split()[0] for part in match.group(2).split(", ")} == {"download", "load_weights", "warmup"}
    assert "load_weights 12" in match.group(2)


def test_processes_get_their_arguments_and_not_the_secrets(fake, heard, shards):
    secret = "hf_secret_of_the_test"
    launcher = fake(
        "--model-id",
        "org/m",
        "--revision",
        "r1",
        "--dtype",
        "float32",
        HF_TOKEN=secret,
        LOG_LEVEL="debug",
        HOSTNAME="c0ffee",
    )
    launcher.ready()
    router, shard = heard()[0], shards()[0]
    assert {"--model-id=org/m", "--revision=r1", "--hostname=0.0.0.0", "--port=3000"} <= set(router["argv"])
    assert {"--model-id=org/m", "--dtype=float32", "--generation=1", "--logger-level=DEBUG"} <= set(shard["argv"])
    for process in (router, shard):
        assert "HF_TOKEN" not in process["env"]
    assert "LOG_LEVEL" not in shard["env"]
    assert secret not in launcher.output
    assert "c0ffee" in launcher.wait_for("WARN.*no IP address.*").group(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_first_signal_drains_and_exits_0(fake, heard, number):
    launcher = fake(router={"drain_seconds": 0.3})
    launcher.ready()
    launcher.signal(number)
    assert launcher.exit_code() == 0
    assert types(heard) == ["started", "shards", "drain", "stop"]
    assert launcher.descendants() == []


def test_second_signal_stops_at_once(fake):
    launcher = fake(router={"drain_seconds": 60, "deaf": True}, server={"deaf": True})
    launcher.ready()
    launcher.signal()
    launcher.wait_for("draining")
    launcher.signal()
    assert launcher.exit_code(seconds=30) == 128 + signal.SIGINT  # the drain would take 60 s
    assert launcher.descendants() == []


def test_a_drain_that_takes_too_long_is_cut(fake):
    launcher = fake("--graceful-termination-timeout", "1", router={"drain_seconds": 60})
    launcher.ready()
    launcher.signal()
    assert launcher.exit_code() == 0
    assert "requests still ran after 1 s" in launcher.output
    assert launcher.descendants() == []


def test_a_signal_during_the_download_ends_it(fake):
    launcher = fake(server={"download_seconds": 60})
    assert wait_until(launcher.descendants)
    time.sleep(0.3)
    launcher.signal()
    assert launcher.exit_code() == 0
    assert wait_until(lambda: not launcher.descendants())


def test_a_signal_before_ready_ends_the_start(fake, shards):
    launcher = fake(server={"never_listens": True})
    assert wait_until(shards)
    launcher.signal()
    assert launcher.exit_code() == 0
    assert launcher.descendants() == []


def test_nothing_outlives_a_killed_launcher(fake):
    launcher = fake(router={"deaf": True}, server={"deaf": True})
    launcher.ready()
    assert len(launcher.descendants()) == 3
    launcher.process.kill()
    launcher.process.wait()
    assert wait_until(lambda: not processes_marked(launcher.mark))


def test_ctrl_c_of_the_terminal_reaches_the_launcher_alone(fake, heard, shards):
    launcher = fake()
    launcher.ready()
    groups = {os.getpgid(heard()[0]["pid"]), os.getpgid(shards()[0]["pid"]), os.getpgid(launcher.process.pid)}
    assert len(groups) == 3


def test_a_dead_shard_is_replaced_by_a_new_generation_with_a_new_socket(fake, heard, shards):
    launcher = fake()
    launcher.ready()
    os.kill(shards()[0]["pid"], signal.SIGKILL)
    assert wait_until(lambda: types(heard) == ["started", "shards", "lost", "shards"])
    first, lost, second = heard()[1:]
    assert (first["generation"], lost["generation"], second["generation"]) == (1, 1, 2)
    assert "SIGKILL" in lost["reason"]
    assert first["uris"] != second["uris"]


def pids_by_rank(started, generation):
    """Of the shards of one start."""
    of_start = [shard for shard in started if f"--generation={generation}" in shard["argv"]]
    return {word: shard["pid"] for shard in of_start for word in shard["argv"] if word.startswith("--rank=")}


def test_shards_of_a_group_are_told_of_each_other_and_announced_together(fake, heard, shards):
    launcher = fake("--num-shard", "3")
    launcher.ready()
    [announced] = [message for message in heard() if message["type"] == "shards"]
    assert pids_by_rank(shards(), 1).keys() == {"--rank=0", "--rank=1", "--rank=2"}
    by_rank = sorted(shards(), key=lambda shard: [word for word in shard["argv"] if word.startswith("--rank=")])
    paths = [word for shard in by_rank for word in shard["argv"] if word.startswith("--uds-path=")]
    assert announced["uris"] == [f"unix://{path.removeprefix('--uds-path=')}" for path in paths]
    assert len(meeting_points(shards())) == 1
    assert all("--world-size=3" in shard["argv"] for shard in shards())
    launcher.signal()
    assert launcher.exit_code() == 0
    assert launcher.descendants() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_where_one_shard_dies_the_whole_group_is_replaced(fake, heard, shards, number):
    launcher = fake("--num-shard", "2", server={"deaf": number == signal.SIGKILL})
    launcher.ready()
    first = pids_by_rank(shards(), 1)
    os.kill(first["--rank=1"], number)
    assert wait_until(lambda: types(heard) == ["started", "shards", "lost", "shards"])
    lost, second = heard()[2:]
    assert (lost["generation"], second["generation"], len(second["uris"])) == (1, 2, 2)
    assert lost["reason"].startswith("rank 1: ")
    assert launcher.descendants() != []
    assert not set(first.values()) & set(launcher.descendants())
    assert len(pids_by_rank(shards(), 2)) == 2


def meeting_points(started):
    """Of all generations so far, in their order."""
    words = dict.fromkeys(word for shard in started for word in shard["argv"] if word.startswith("--meeting-point="))
    return [Path(word.removeprefix("--meeting-point=")) for word in words]


@pytest.fixture
def prefix():
    """An operator's, which the launcher leaves alone; short, as a socket's path has to be."""
    with tempfile.TemporaryDirectory(prefix="meet") as directory:
        yield f"{directory}/s"


def test_a_meeting_point_stays_as_long_as_its_generation(fake, heard, shards, prefix):
    launcher = fake("--num-shard", "2", "--shard-uds-path", prefix)
    launcher.ready()
    [first] = meeting_points(shards())
    assert first.exists()  # NCCL looks into it again with the first call of a kind
    os.kill(shards()[0]["pid"], signal.SIGKILL)
    assert wait_until(lambda: types(heard) == ["started", "shards", "lost", "shards"])
    _, second = meeting_points(shards())
    assert (first.exists(), second.exists()) == (False, True)
    launcher.signal()
    assert launcher.exit_code() == 0
    assert not second.exists()


@pytest.mark.parametrize("refuses", [True, False])
def test_a_start_that_fails_leaves_no_meeting_point(fake, shards, prefix, refuses):
    server = {"serve_fails": "no"} if refuses else {"never_listens": True}
    launcher = fake("--num-shard", "2", "--shard-uds-path", prefix, server=server)
    assert refuses or wait_until(shards)
    if not refuses:
        launcher.signal()
    assert launcher.exit_code() == (2 if refuses else 0)
    assert list(Path(prefix).parent.glob("*meeting*")) == []


def test_a_group_that_hangs_is_killed_and_replaced(fake, heard, shards):
    launcher = fake("--num-shard", "2", router={"hung_generation": 1}, server={"deaf": True})
    launcher.wait_for("deadline of step 17")
    assert wait_until(lambda: types(heard) == ["started", "shards", "lost", "shards"])
    assert len(shards()) == 4


def test_a_group_that_dies_counts_once(fake, heard):
    launcher = fake("--num-shard", "2", server={"dies_until_generation": 99})
    assert launcher.exit_code() == 1
    assert "the shard died 6 times within 10 minutes" in launcher.output
    assert types(heard)[-1] == "give_up"
    assert launcher.descendants() == []


def test_a_group_in_which_one_refuses_its_settings_ends_the_start_with_2(fake):
    launcher = fake("--num-shard", "2", server={"serve_fails": "3 heads for 2 shards"})
    assert launcher.exit_code() == 2
    assert "the shard cannot start: 3 heads for 2 shards" in launcher.output
    assert launcher.descendants() == []


def test_a_stopped_shard_that_hangs_is_killed_and_replaced(fake, heard, shards):
    launcher = fake(router={"hung_generation": 1}, server={"deaf": True})
    launcher.wait_for("deadline of step 17")
    assert wait_until(lambda: types(heard) == ["started", "shards", "lost", "shards"])
    assert len(shards()) == 2
    launcher.signal()
    assert launcher.exit_code() == 0


def test_a_sigstopped_shard_does_not_hold_up_the_end(fake, shards):
    launcher = fake()
    launcher.ready()
    os.kill(shards()[0]["pid"], signal.SIGSTOP)
    launcher.signal()
    assert launcher.exit_code() == 0
    assert launcher.descendants() == []


def test_the_sixth_death_in_ten_minutes_ends_everything_with_1(fake, heard, shards):
    launcher = fake(server={"dies_until_generation": 99})
    assert launcher.exit_code() == 1
    assert len(shards()) == 6
    assert types(heard)[-1] == "give_up"
    assert "the shard died 6 times within 10 minutes" in launcher.output
    assert "the fake died on purpose" in launcher.output
    assert launcher.descendants() == []


def test_deaths_that_suspects_explain_do_not_count(fake, shards):
    launcher = fake(server={"dies_until_generation": 9}, router={"suspects": True})
    assert wait_until(lambda: len(shards()) == 10)
    launcher.signal()
    assert launcher.exit_code() == 0


def test_a_shard_that_refuses_its_settings_ends_the_start_with_2(fake, shards):
    launcher = fake(server={"serve_fails": "`--kv-memory` is 1 byte: give more"})
    assert launcher.exit_code() == 2
    assert len(shards()) == 1
    assert "the shard cannot start: `--kv-memory` is 1 byte: give more" in launcher.output
    assert launcher.descendants() == []


def test_a_download_that_refuses_the_model_ends_the_start_with_2(fake, shards):
    launcher = fake(server={"download_fails": "no such model"})
    assert launcher.exit_code() == 2
    assert "no such model" in launcher.output
    assert shards() == []


def test_a_start_that_takes_too_long_ends_with_1(fake):
    launcher = fake("--startup-timeout", "0.8", server={"never_listens": True})
    assert launcher.exit_code() == 1
    assert "--startup-timeout" in launcher.output
    assert launcher.descendants() == []


@pytest.mark.parametrize(("router", "code"), [({"exits": 2}, 2), ({"exits": 1}, 1), ({"dies_when_ready": True}, 1)])
def test_a_router_that_ends_ends_everything(fake, router, code):
    launcher = fake(router=router)
    assert launcher.exit_code() == code
    assert "the router ended" in launcher.output
    assert launcher.descendants() == []


def test_log_lines_of_any_length_arrive(fake):
    launcher = fake(server={"long_line": 300_000})
    launcher.ready()
    assert "x" * 300_000 in launcher.output


def test_log_records_of_the_shard_are_logged_as_json(fake):
    launcher = fake("--json-output", server={"serve_fails": "said once"})
    assert launcher.exit_code() == 2
    records = [json.loads(line) for line in launcher.lines if line.startswith("{")]
    said = [record for record in records if record["target"] == "ribbon_shard"]
    assert said[0]["level"] == "ERROR"
    assert "said once" in said[0]["fields"]["message"]


def test_the_private_socket_directory_is_gone_after_the_end(fake, heard):
    launcher = fake()
    launcher.ready()
    [uri] = heard()[1]["uris"]
    directory = Path(uri.removeprefix("unix://")).parent
    assert directory.stat().st_mode & 0o777 == 0o700
    launcher.signal()
    assert launcher.exit_code() == 0
    assert not directory.exists()


def test_a_sigstopped_router_is_noticed_and_ends_everything_with_1(fake, heard):
    launcher = fake("--router-timeout", "1.2")
    launcher.ready()
    os.kill(heard()[0]["pid"], signal.SIGSTOP)
    assert launcher.exit_code() == 1
    assert "--router-timeout" in launcher.output
    assert launcher.descendants() == []


def test_a_router_that_answers_pings_lives(fake, heard):
    launcher = fake("--router-timeout", "2", router={"records_pings": True})
    launcher.ready()
    assert wait_until(lambda: types(heard).count("ping") >= 8)  # a silent one is given up after six
    assert launcher.process.poll() is None
    launcher.signal()
    assert launcher.exit_code() == 0


@pytest.mark.parametrize(
    ("number", "flags", "grace"),
    [
        (signal.SIGTERM, [], 5.0),
        (signal.SIGTERM, ["--drain-grace", "0"], 0.0),
        (signal.SIGTERM, ["--graceful-termination-timeout", "2"], 2.0),
        (signal.SIGINT, [], 0.0),
    ],
)
def test_only_sigterm_leaves_time_for_late_requests(fake, heard, number, flags, grace):
    launcher = fake(*flags)
    launcher.ready()
    launcher.signal(number)
    assert launcher.exit_code() == 0
    [drain] = [message for message in heard() if message["type"] == "drain"]
    assert drain["grace_seconds"] == grace


def test_a_killed_launchers_directory_is_removed_by_the_next(fake, heard):
    with tempfile.TemporaryDirectory() as base:  # tmp_path is too long for sockets
        launcher = fake(TMPDIR=base)
        launcher.ready()
        [uri] = heard()[1]["uris"]
        abandoned = Path(uri.removeprefix("unix://")).parent
        assert abandoned.parent == Path(base)
        launcher.process.kill()
        launcher.process.wait()
        assert wait_until(lambda: not processes_marked(launcher.mark))
        assert abandoned.exists()
        second = fake(TMPDIR=base)
        second.ready()
        assert not abandoned.exists()
        second.signal()
        assert second.exit_code() == 0


def test_a_bad_kv_memory_is_refused_before_the_download(fake):
    launcher = fake("--kv-memory", "much", server={"download_fails": "this was the download"})
    assert launcher.exit_code() == 2
    assert "`--kv-memory` is `much`" in launcher.output
    assert "this was the download" not in launcher.output
