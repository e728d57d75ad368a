"""Stage of the clients' tests: what all are asked, the server's own answers, and how their programs are run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from load.served import Served

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))

from asked import Asked, Truth  # noqa: E402
from environments import node_folder, python_of  # noqa: E402
from observed import Ask, Record, recorded, run, told  # noqa: E402


@pytest.fixture(scope="session")
def truth(demo_server: Served) -> Truth:
    """What plain HTTP requests get."""
    return Truth(Asked(demo_server.base))


@pytest.fixture
def python_client(truth: Truth, tmp_path: Path, record_property: Record) -> Ask:
    """Runs `programs/with_….py` in an environment: `with python_client("litellm", "gateways", "with_litellm.py") as seen`."""

    def ask(client: str, environment: str, program: str) -> Any:
        command = [python_of(environment), HERE / "programs" / program, json.dumps(truth.asked.for_a_program())]
        return recorded(told(client, run(command, tmp_path)), record_property)

    return ask


@pytest.fixture
def node_client(truth: Truth, tmp_path: Path, record_property: Record) -> Ask:
    """Runs `node/with_….mjs` beside its packages: `with node_client("ai", "with_ai_sdk.mjs") as seen`."""

    def ask(client: str, program: str) -> Any:
        # Node looks for packages beside the program, wherever it is started from.
        (tmp_path / "node_modules").symlink_to(node_folder() / "node_modules")
        for file in ("report.mjs", program):
            (tmp_path / file).write_text((HERE / "node" / file).read_text())
        command = ["node", tmp_path / program, json.dumps(truth.asked.for_a_program())]
        return recorded(told(client, run(command, tmp_path)), record_property)

    return ask
