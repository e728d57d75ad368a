"""Runs what a program names as features and prints what each saw, as one JSON line. Runs in the clients' environments; knows none of them."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

asked = SimpleNamespace(**json.loads(sys.argv[1])) if len(sys.argv) > 1 else SimpleNamespace()
_features: dict[str, Callable[[], Any]] = {}


def feature(see: Callable[[], Any]) -> Callable[[], Any]:
    """Marks a function as a feature; what it returns (JSON) is what the client saw."""
    _features[see.__name__] = see
    return see


def refusal(call: Callable[[], Any]) -> dict[str, Any]:
    """How the client words a refusal: the class of what it raised and of its parents, the status it carries, the text."""
    try:
        call()
    except Exception as error:  # noqa: BLE001  what clients raise is the question
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return {"types": kinds, "status": getattr(error, "status_code", None), "message": str(error)}
    return {"types": [], "status": None, "message": "nothing was raised"}


def tell(package: str) -> None:
    """Runs all features and prints the last line."""
    seen = {name: _saw(see) for name, see in _features.items()}
    print(json.dumps({"version": version(package), "seen": seen}), flush=True)


def _saw(see: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"saw": asyncio.run(see()) if inspect.iscoroutinefunction(see) else see()}
    except Exception:  # noqa: BLE001  one feature that breaks leaves the others
        return {"broke": traceback.format_exc()[-3000:]}
