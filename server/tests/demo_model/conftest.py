"""Makes the scripts of demo-model/ importable."""

import sys
from pathlib import Path

import pytest

DEMO_MODEL = Path(__file__).parents[3] / "demo-model"
sys.path.insert(0, str(DEMO_MODEL))


@pytest.fixture(scope="session")
def weights() -> Path:
    """The folder of the bundled model."""
    return DEMO_MODEL / "weights"
