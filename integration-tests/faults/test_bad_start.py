"""What the operator got wrong ends the start with exit code 2 and a message that says what to do."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from load.served import Served

EXIT_SECONDS = 60
OPERATORS_MISTAKE = 2


def failed_start(model: Path, *flags: str, binary: Path) -> str:
    """Starts a server that must refuse, and returns its whole log."""
    served = Served(model, "--dtype", "float32", "--kv-memory", "256MiB", *flags, binary=binary)
    served.start()
    try:
        code = served.launcher.wait(EXIT_SECONDS)
    finally:
        served.stop()
    assert code == OPERATORS_MISTAKE, f"exit code {code}\n{served.log_tail()}"
    return served.log_file.read_text()


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def cut_weights(model: Path) -> None:
    """Loses the second half of the file."""
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def garble_header(model: Path) -> None:
    """A header length beyond the file."""
    weights = model / "model.safetensors"
    weights.write_bytes(b"\xff" * 8 + weights.read_bytes()[8:])


def lose_tokenizer(model: Path) -> None:
    """No tokenizer.json."""
    (model / "tokenizer.json").unlink()


def garble_tokenizer(model: Path) -> None:
    """A tokenizer.json that is no JSON."""
    (model / "tokenizer.json").write_text('{"model": ')


def lose_config(model: Path) -> None:
    """No config.json."""
    (model / "config.json").unlink()


def unknown_architecture(model: Path) -> None:
    """An architecture that nobody has."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps(config | {"architectures": ["NobodyForCausalLM"], "model_type": "nobody"})
    )


def wrong_width(model: Path) -> None:
    """Weights that do not fit the config."""
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 161}))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (cut_weights, "safetensors"),
        (garble_header, "safetensors"),
        (lose_tokenizer, "tokenizer.json"),
        (garble_tokenizer, "tokenizer"),
        (lose_config, "config.json"),
        (unknown_architecture, "NobodyForCausalLM"),
        (wrong_width, "gate"),
    ],
    ids=lambda value: value.__name__ if callable(value) else value,
)
def test_a_spoiled_model_is_refused(binary: Path, copy: Path, spoil: Callable[[Path], None], word: str) -> None:
    spoil(copy)
    assert word in failed_start(copy, binary=binary)


def test_an_unknown_directory_is_refused(binary: Path, tmp_path: Path) -> None:
    assert "nowhere" in failed_start(tmp_path / "nowhere", binary=binary)


def test_a_model_that_cannot_be_dealt_out_is_refused_by_its_heads(binary: Path, tiny_model: Path) -> None:
    log = failed_start(tiny_model, "--num-shard", "3", binary=binary)
    assert "4 attention heads, which cannot be dealt out to 3 shards; use another `--num-shard`" in log


@pytest.mark.slow
def test_a_model_that_cannot_be_cut_into_stages_is_refused_by_its_layers(binary: Path, tiny_model: Path) -> None:
    log = failed_start(tiny_model, "--pipeline-parallel-size", "3", binary=binary)
    assert "this model has 2 layers, `--pipeline-parallel-size` is 3; use at most one stage a layer" in log


def test_a_busy_port_is_refused_by_number(binary: Path, tiny_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        served = Served(tiny_model, binary=binary)
        served.port = int(port)
        served.start()
        try:
            assert served.launcher.wait(EXIT_SECONDS) == OPERATORS_MISTAKE
        finally:
            served.stop()
    assert port in served.log_file.read_text().replace(" ".join(served.command()), "")


def test_a_socket_path_in_no_directory_is_refused(binary: Path, tiny_model: Path, tmp_path: Path) -> None:
    assert "none" in failed_start(tiny_model, "--shard-uds-path", str(tmp_path / "none" / "socket"), binary=binary)
