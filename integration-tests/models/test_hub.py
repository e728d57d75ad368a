"""Models from the Hub, by its real client against a Hub of our own: what is fetched, what is refused, and how it is said."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from asking import Serve
from load.client import exchange
from load.served import Served
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))

from hub_server import FakeHub, Files, Repository, commit_id, repository

FLAGS = ("--dtype", "float32", "--kv-memory", "64MiB")
SERVER = Path(__file__).resolve().parents[2] / "server"
MODEL: Files = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "README.md": b"never fetched",
    "onnx/model.safetensors": b"never fetched",
    "onnx/config.json": b"never fetched",
}
MOVED = {**MODEL, "model.safetensors": b"other weights", "tokenizer.json": b'{"other": 1}'}
SECRET = "hf_secretsecretsecret"


def environment(endpoint: str, home: Path, **extra: str) -> dict[str, str]:
    """Ours without what the Hub's client would read of it; a busy machine must not look like a slow Hub."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("HF_", "HUGGING")) and "proxy" not in name.lower()
    }
    patient = {"HF_HUB_DOWNLOAD_TIMEOUT": "120", "HF_HUB_ETAG_TIMEOUT": "120"}
    return {**kept, **patient, "PYTHONPATH": str(SERVER), "HF_ENDPOINT": endpoint, "HF_HOME": str(home), **extra}


def download(model_id: str, env: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    """Runs the download step of the launcher."""
    command = [sys.executable, "-m", "ribbon_server", "download", "--model-id", model_id, *flags]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def found(result: subprocess.CompletedProcess[str]) -> tuple[Path, str]:
    """Directory and commit of a download that went well."""
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout.splitlines()[-1])
    return Path(answer["model_path"]), answer["revision"]


def names(folder: Path) -> set[str]:
    """All files in a directory."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_one_commit_is_fetched_whatever_its_branch_becomes_and_then_needs_no_hub(tmp_path: Path) -> None:
    first, second = commit_id("first"), commit_id("second")
    repo = Repository({first: MODEL, second: MOVED}, {"main": first, "refs/pr/1": second})
    with FakeHub({"org/model": repo}) as hub:
        hub.after_info = lambda: repo.refs.update(main=second)  # moves while the files are still to come
        env = environment(hub.endpoint, tmp_path)
        folder, commit = found(download("org/model", env))
        assert commit == first
        assert names(folder) == {"config.json", "tokenizer.json", "model.safetensors"}
        assert all((folder / name).read_bytes() == MODEL[name] for name in names(folder))
        assert {revision for revision, _ in hub.files_asked()} == {first}

        folder, commit = found(download("org/model", env, "--revision", "refs/pr/1"))
        assert commit == second
        assert all((folder / name).read_bytes() == MOVED[name] for name in names(folder))
        asked = len(hub.asked)
        offline = {**env, "HF_HUB_OFFLINE": "1"}
        assert found(download("org/model", offline, "--revision", "refs/pr/1")) == (folder, second)
        assert len(hub.asked) == asked
    assert found(download("org/model", env))[1] == first, "the Hub is gone, the cache is not"


def test_a_broken_download_goes_on_where_it_was(tmp_path: Path) -> None:
    large = os.urandom(12 * 2**20)  # the client writes 10 MiB at a time
    with FakeHub({"org/model": repository(MODEL | {"model.safetensors": large})}) as hub:
        hub.break_once["model.safetensors"] = 11 * 2**20
        folder, _ = found(download("org/model", environment(hub.endpoint, tmp_path)))
        assert (folder / "model.safetensors").read_bytes() == large
        ranges = [request.bytes_range for request in hub.asked if request.bytes_range]
        assert ranges == [f"bytes={10 * 2**20}-"]


def test_safetensors_of_a_gated_model_come_with_the_old_name_of_the_token(tmp_path: Path) -> None:
    files = {**MODEL, "pytorch_model.bin": b"never fetched", "consolidated.safetensors": b"never fetched"}
    with FakeHub({"org/model": repository(files, gate_token=SECRET)}) as hub:
        env = environment(hub.endpoint, tmp_path, HUGGING_FACE_HUB_TOKEN=SECRET)
        result = download("org/model", env)
        assert names(found(result)[0]) == {"config.json", "tokenizer.json", "model.safetensors"}
        assert "never fetched" not in {files[name].decode(errors="replace") for _, name in hub.files_asked()}
        assert SECRET not in result.stdout + result.stderr


def in_older_form(model: Path) -> Files:
    """The files of a model, its weights as two files of PyTorch's with an index."""
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.suffix != ".safetensors"}
    for name, part in parts.items():
        buffer = io.BytesIO()
        torch.save({tensor: tensors[tensor] for tensor in part}, buffer)
        files[name] = buffer.getvalue()
    weight_map = {tensor: name for name, part in parts.items() for tensor in part}
    return files | {"pytorch_model.bin.index.json": json.dumps({"weight_map": weight_map}).encode()}


def greedy_tokens(served: Served) -> list[int]:
    """What it says to a prompt."""
    body = {"inputs": "one two three", "parameters": {"max_new_tokens": 12, "details": True, "do_sample": False}}
    answer = exchange(served.base, "POST", "/generate", body).json()
    return [token["id"] for token in answer["details"]["tokens"]]


@pytest.mark.slow
def test_a_gated_model_in_older_form_is_served_and_then_again_offline(
    serve: Serve, tiny_model: Path, tmp_path: Path
) -> None:
    repo = repository(in_older_form(tiny_model), gate_token=SECRET)
    commit = repo.refs["release"] = repo.refs.pop("main")
    expected = greedy_tokens(serve(tiny_model, *FLAGS))
    with FakeHub({"org/model": repo}) as hub:
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path)}
        for extra in ({"HF_TOKEN": SECRET, "HF_HUB_OFFLINE": "0"}, {"HF_HUB_OFFLINE": "1"}):
            asked = len(hub.asked)
            served = serve(Path("org/model"), *FLAGS, "--revision", "release", env=settings | extra)
            info = exchange(served.base, "GET", "/info").json()
            assert (info["model_id"], info["model_sha"]) == ("org/model", commit)
            assert greedy_tokens(served) == expected
            assert SECRET not in served.log_file.read_text()
        assert len(hub.asked) == asked, "the second start asked the Hub"


INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
HALF: Files = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model-1.safetensors": b"1",
    "model.safetensors.index.json": INDEX,
}
REPOSITORIES = {
    "org/gated": repository(MODEL, gate_token=SECRET),
    "org/private": repository(MODEL, gate_token=SECRET, is_private=True),
    "org/half": repository(HALF),
    "org/broken": repository(MODEL, is_broken=True),
    "org/bare": repository({"config.json": b"{}"}),
    "org/open": repository(MODEL),
}


REFUSALS = {
    "gated, no token": ("org/gated", (), None, ["org/gated is gated", "no token was given", "HF_TOKEN"]),
    "gated, other token": ("org/gated", (), "hf_other", ["org/gated is gated", "gives no access", "/org/gated"]),
    "private": ("org/private", (), None, ["org/private does not exist", "or is private", "HF_TOKEN"]),
    "missing": ("org/missing", (), SECRET, ["org/missing does not exist", "check the id"]),
    "invalid token": ("org/open", (), "hf_invalid", ["does not accept the token", "HF_TOKEN"]),
    "no such revision": ("org/open", ("--revision", "v9"), None, ["org/open has no revision v9", "--revision"]),
    "a Hub that fails": ("org/broken", (), None, ["org/broken cannot be downloaded", "answered 500", "start again"]),
    "half": ("org/half", (), None, ["org/half", "lacks model-2.safetensors"]),
    "no weights": ("org/bare", (), None, ["org/bare has no weights", "model.safetensors"]),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and log of each of REFUSALS."""
    calls = [(["download", "--model-id", name, *flags], token) for name, flags, token, _ in REFUSALS.values()]
    with FakeHub(REPOSITORIES) as hub:
        result = subprocess.run(
            [sys.executable, Path(__file__).with_name("download_calls.py")],
            env=environment(hub.endpoint, tmp_path_factory.mktemp("home")),
            input=json.dumps(calls),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stderr
    return dict(zip(REFUSALS, json.loads(result.stdout), strict=True))


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_had_is_one_line_that_says_what_to_do(refused: dict[str, tuple[int, str]], name: str) -> None:
    code, log = refused[name]
    _, _, token, words = REFUSALS[name]
    errors = [record["message"] for line in log.splitlines() if (record := json.loads(line))["level"] == "ERROR"]
    assert code == 2, log
    assert len(errors) == 1, log
    assert all(word in errors[0] for word in words), errors[0]
    assert "\n" not in errors[0]
    assert (token or SECRET) not in log


def test_a_hub_that_is_not_there_is_one_line_too(tmp_path: Path) -> None:
    with FakeHub() as gone:
        endpoint = gone.endpoint
    result = download("org/model", environment(endpoint, tmp_path))
    assert result.returncode == 2
    assert f"org/model cannot be downloaded from {endpoint}" in json.loads(result.stderr.splitlines()[-1])["message"]
