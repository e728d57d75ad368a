"""Stage for the integration tests: models, and real launchers on free ports that are always taken down.

`RIBBON_TEST_BUILD=release` tests the release binaries instead of the debug ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "integration-tests"
sys.path[:0] = [str(ROOT / "benchmarks"), *(str(TESTS / room) for room in ("reference", "http", "soak"))]

import torch  # noqa: E402
from asking import Serve  # noqa: E402
from figures import shown  # noqa: E402
from load.served import Served, launcher_binary  # noqa: E402
from models import make_model  # noqa: E402

# Small chunks, so that a wave of prompts takes many steps and those carry decodes too.
FLAGS = ("--dtype", "float32", "--kv-memory", "256MiB", "--max-batch-prefill-tokens", "512")

running: list[Served] = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:  # noqa: ARG001
    """A failure shows the logs of every server that was up."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed:
        report.sections += [(f"server on port {served.port}", served.log_tail()) for served in running]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Figures of tests that passed, which pytest would swallow."""
    if shown:
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(shown))


@pytest.fixture(scope="session", autouse=True)
def one_reference_thread() -> None:
    """The reference and the servers share the cores: two OpenMP threads on a busy core are slower than one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def binary() -> Path:
    """The launcher under test."""
    path = launcher_binary(os.environ.get("RIBBON_TEST_BUILD", "debug"))
    assert path.exists(), f"{path} is missing: run `make build`"
    return path


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """A random Llama of 2 layers in float32."""
    return make_model("tiny", dtype="float32")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The bundled model."""
    path = ROOT / "demo-model" / "weights"
    assert (path / "config.json").exists(), f"{path} has no model: run `make demo-train`"
    return path


def start(stack: ExitStack, served: Served) -> Served:
    """Starts a server that `stack` takes down, and shows its log when a test fails meanwhile."""
    running.append(served)
    stack.callback(running.remove, served)
    return stack.enter_context(served)


@pytest.fixture(scope="session")
def tiny_server(binary: Path, tiny_model: Path) -> Iterator[Served]:
    """A server of the tiny model that many tests share; none may leave anything running."""
    with ExitStack() as stack:
        yield start(stack, Served(tiny_model, *FLAGS, "--enable-embeddings", binary=binary))


@pytest.fixture(scope="module")
def beam_server(binary: Path, tiny_model: Path) -> Iterator[Served]:
    """A server of the tiny model with room for wide searches."""
    with ExitStack() as stack:
        yield start(stack, Served(tiny_model, *FLAGS, "--max-best-of", "8", binary=binary))


@pytest.fixture(scope="session")
def demo_server(binary: Path, demo_model: Path) -> Iterator[Served]:
    """A server of the bundled model, named by no flag."""
    assert demo_model.exists()
    with ExitStack() as stack:
        yield start(stack, Served(None, *FLAGS, binary=binary))


@pytest.fixture
def serve(binary: Path) -> Iterator[Serve]:
    """Starts servers of the test's own: `serve(model, "--flag", "value")`."""
    with ExitStack() as stack:
        yield lambda model, *flags, **settings: start(stack, Served(model, *flags, binary=binary, **settings))
