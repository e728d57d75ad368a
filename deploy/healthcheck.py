"""Is the server of this container healthy? Asks `/health` where the router listens, by whichever way the port was chosen.

Knows the router's command line; not the launcher's flags and variables. Exit code 1 says no, also while the model is fetched.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path

SECONDS = 4.0
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def router_arguments(processes: Path) -> dict[str, str] | None:
    """The router's `--name=value` words; None while there is no router."""
    for file in sorted(processes.glob("[0-9]*/cmdline")):
        try:
            program, *words = file.read_bytes().decode(errors="replace").rstrip("\0").split("\0")
        except OSError:  # it ended meanwhile
            continue
        if Path(program).name == "ribbon-router":
            return dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    return None


def health_url(arguments: dict[str, str]) -> str:
    """Where this router says how it is."""
    host = EVERYWHERE.get(arguments["hostname"], arguments["hostname"])
    return f"http://{f'[{host}]' if ':' in host else host}:{arguments['port']}/health"


def main() -> int:
    """Exit code; the first argument may name another place than /proc."""
    arguments = router_arguments(Path(sys.argv[1] if len(sys.argv) > 1 else "/proc"))
    if arguments is None:
        print("there is no router yet")
        return 1
    try:
        with urllib.request.urlopen(health_url(arguments), timeout=SECONDS):
            return 0
    except (urllib.error.URLError, OSError) as error:
        print(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
