"""Stage for the integration tests: models, and real launchers on free ports that are always taken down."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "integration-tests" / "reference")]

from models import make_model  # noqa: E402


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A random Llama of 2 layers in float32."""
    return make_model("tiny", dtype="float32")
