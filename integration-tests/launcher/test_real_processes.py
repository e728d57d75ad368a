"""The launcher with its real router and shard, on the bundled model: limits of the warm model, Ctrl-C under load, names of hosts."""

import json
import socket
import threading
import urllib.error
import urllib.request

import pytest
from launcher_support import wait_until

MODEL = ("--kv-memory", "64MiB", "--max-batch-prefill-tokens", "128", "--port", "0")


def generate(url, tokens):
    body = {
        "inputs": "Once",
        "parameters": {"max_new_tokens": tokens, "ignore_eos": True, "do_sample": False, "details": True},
    }
    request = urllib.request.Request(f"{url}/generate", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)["details"]["generated_tokens"]


def metrics(url):
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        return answer.read().decode()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max-total-tokens", "100000"), ("max_total_tokens", "100000", "4096")),
        (("--kv-memory", "64KiB", "--max-total-tokens", "2000"), ("--kv-memory", "--max-total-tokens")),
        (("--max-input-tokens", "4096"), ("--max-input-tokens", "4096")),
    ],
)
def test_a_limit_that_the_warm_model_cannot_keep_ends_the_start_with_2(start, flags, words):
    launcher = start("--port", "0", *flags)
    assert launcher.exit_code(seconds=120) == 2
    error = next(line for line in launcher.lines if "ERROR ribbon_router" in line)
    assert all(word in error for word in words)
    assert launcher.descendants() == []


def test_ctrl_c_lets_running_requests_finish_and_refuses_new_ones(start):
    launcher = start(*MODEL, HOSTNAME="container-name")
    url = launcher.ready()
    assert "container-name" in launcher.output
    counts = []
    asking = threading.Thread(target=lambda: counts.append(generate(url, 1500)))
    asking.start()
    assert wait_until(lambda: 'ribbon_slots{state="used"} 1' in metrics(url))
    launcher.signal()
    launcher.wait_for("draining")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        generate(url, 1)
    asking.join(timeout=120)
    assert counts == [1500]
    assert launcher.exit_code() == 0
    assert "panicked" not in launcher.output
    assert launcher.descendants() == []


def test_a_busy_port_ends_the_start_with_2(start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        launcher = start("--hostname", "127.0.0.1", "--port", str(port))
        assert launcher.exit_code(seconds=60) == 2
    assert f"port {port} is already in use: choose another with --port" in launcher.output
    assert launcher.descendants() == []
