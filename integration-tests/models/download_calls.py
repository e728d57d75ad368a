"""Runs several downloads in one process, whose start takes longer than they do. Reads and writes JSON."""

import contextlib
import io
import json
import os
import sys

from ribbon_server.cli import main


def run(arguments: list[str], token: str | None) -> tuple[int, str]:
    """Exit code and log of one download."""
    os.environ.pop("HF_TOKEN", None)
    if token is not None:
        os.environ["HF_TOKEN"] = token
    with contextlib.redirect_stderr(io.StringIO()) as log:
        try:
            main(arguments)
        except SystemExit as ended:
            return int(ended.code or 0), log.getvalue()
    return 0, log.getvalue()


sys.stdout.write(json.dumps([run(*call) for call in json.load(sys.stdin)]) + "\n")
