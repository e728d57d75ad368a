"""What a client's program saw, read feature by feature; one that no test looks at is an error. Knows processes; not clients."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAM_SECONDS = 600
Record = Callable[[str, object], None]

# Nothing a client does may reach further than this machine, nor depend on who runs it.
QUIET = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # The Hub's inference client refuses to talk to any server where HF_HUB_OFFLINE is set; nothing listens here.
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "NO_PROXY": "127.0.0.1",
    "TOKENIZERS_PARALLELISM": "false",
}
PASSED_ON = ("PATH", "LANG", "OMP_NUM_THREADS")


@dataclass
class Observed:
    """Features by name. Reading one counts as testing it."""

    client: str
    version: str
    seen: dict[str, Any] = field(default_factory=dict)
    read: list[str] = field(default_factory=list)

    def __getitem__(self, feature: str) -> Any:
        """What was seen. Raises AssertionError with the client's own words where the feature broke."""
        assert feature in self.seen, f"{self.client} has no feature {feature}: {sorted(self.seen)}"
        self.read.append(feature)
        saw = self.seen[feature]
        assert "broke" not in saw, f"{self.client}: {feature}: {saw['broke']}"
        return saw["saw"]


Ask = Callable[..., AbstractContextManager[Observed]]  # the fixtures `python_client` and `node_client`


@contextmanager
def recorded(observed: Observed, record: Record) -> Iterator[Observed]:
    """Puts the client into the table, and demands that every feature was looked at."""
    record("client", observed.client)
    record("version", observed.version)
    try:
        yield observed
        assert sorted(observed.seen) == sorted(set(observed.read)), f"{observed.client} did more than is tested"
    finally:
        record("features", list(dict.fromkeys(observed.read)))


def run(command: Sequence[str | Path], home: Path, folder: Path | None = None, **surroundings: str) -> str:
    """What a program printed. `home` takes what it wants to keep. Raises AssertionError where it fails."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    done = subprocess.run(
        command,
        cwd=folder or home,
        env=passed_on | QUIET | {"HOME": str(home)} | surroundings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-6000:]}"
    return done.stdout


def told(client: str, output: str) -> Observed:
    """What a program told in its last line."""
    last = json.loads(output.splitlines()[-1])
    return Observed(client, last["version"], last["seen"])
