"""docs/reference/models.md says what the registry says."""

import importlib.util
from pathlib import Path

SERVER = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("models_doc", SERVER / "models_doc.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (SERVER.parent / "docs/reference/models.md").read_text()
    assert module.page() == page, "run `make docs`"
