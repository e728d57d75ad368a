"""Runs a test at every instruction set."""

from collections.abc import Iterator

import pytest

from ribbon_server import _native


@pytest.fixture(params=["portable", "avx2", "avx512", "avx512bf16", "best"])
def features(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every instruction set this machine has, one after the other."""
    _native.set_cpu_features("best")
    needed = {"avx2": "avx2", "avx512": "avx512f", "avx512bf16": "avx512bf16", "best": "amx_bf16"}.get(request.param)
    if needed is not None and needed not in _native.cpu_features():
        pytest.skip(f"no {needed} here")
    _native.set_cpu_features(request.param)
    yield request.param
    _native.set_cpu_features("best")
