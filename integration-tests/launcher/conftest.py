"""Fixtures that start launchers, with real processes or with fakes in place of router and shard."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from launcher_support import BINARIES, Launcher, base_environment

FAKES = Path(__file__).parent / "fakes"


@pytest.fixture
def start(request):
    """Starts launchers: `start(*arguments, program=..., **environment)`; what they leave behind is killed."""
    launchers = []

    def start_one(*arguments, program=BINARIES / "ribbon-launcher", **environment):
        mark = f"{os.getpid()}-{request.node.name}-{len(launchers)}"
        launcher = Launcher(program, arguments, base_environment() | {"RIBBON_TEST_MARK": mark} | environment)
        launcher.mark = mark
        launchers.append(launcher)
        return launcher

    yield start_one
    for launcher in launchers:
        launcher.kill()
        for pid in launcher.descendants():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def fake(start, tmp_path):
    """Starts a launcher whose router and shard are fakes: `fake(*arguments, server={...}, router={...})`."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("ribbon-server", "ribbon-router"):
        shutil.copy(FAKES / name, directory / name)
    shutil.copy(BINARIES / "ribbon-launcher", directory)

    def start_fake(*arguments, server=None, router=None, **environment):
        router = {"record": str(tmp_path / "heard")} | (router or {})
        server = {"record": str(tmp_path / "shards")} | (server or {})
        behaviour = {"FAKE_SERVER": json.dumps(server), "FAKE_ROUTER": json.dumps(router)}
        return start(*arguments, program=directory / "ribbon-launcher", **behaviour, **environment)

    return start_fake


@pytest.fixture
def heard(tmp_path):
    """What the fake router heard so far."""
    return lambda: _records(tmp_path / "heard")


@pytest.fixture
def shards(tmp_path):
    """The fake shards that were started so far."""
    return lambda: _records(tmp_path / "shards")


def _records(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
