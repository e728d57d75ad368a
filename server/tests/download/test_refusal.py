"""One line for what stands in the way of a download on this machine's side. The Hub's own answers: integration-tests/models."""

import errno

import pytest

from ribbon_server.download.refusal import refusal


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_cache_that_takes_no_file_is_named(number: int) -> None:
    line = refusal("org/model", None, OSError(number, "what the system says"))
    assert line.startswith("org/model cannot be kept in the local cache ")
    assert "what the system says" in line
    assert "HF_HOME" in line


def test_the_reason_under_other_errors_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    error = OSError("outer")
    error.__cause__ = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
    assert "([Errno 111] Connection refused)" in refusal("org/model", "v1", error)


def test_offline_says_what_is_missing_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    line = refusal("org/model", "v1", FileNotFoundError("no snapshot"))
    assert line.startswith("org/model at v1 is not complete in the local cache")
    assert "HF_HUB_OFFLINE" in line
