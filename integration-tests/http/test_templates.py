"""What the router's chat templates are compared with is what transformers renders."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

TEMPLATES = Path(__file__).resolve().parents[2] / "router" / "text" / "tests" / "templates"


def test_the_expected_prompts_are_what_transformers_renders() -> None:
    expected = json.loads((TEMPLATES / "expected.json").read_text(encoding="utf-8"))
    rendered = runpy.run_path(str(TEMPLATES / "expected.py"))["expected"]()
    assert rendered.keys() == expected.keys()
    assert len(rendered) >= 25
    for name, prompts in rendered.items():
        assert prompts == expected[name], name
