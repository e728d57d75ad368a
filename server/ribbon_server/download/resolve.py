"""Resolves a model id to a complete local directory: bundled, local or from the Hub. Knows no format."""

import logging
from dataclasses import dataclass
from pathlib import Path

from ribbon_server.download.complete import complete
from ribbon_server.errors import BadSetting
from ribbon_server.telemetry import log

BUNDLED_ID = "ribbon/demo-model"


@dataclass(frozen=True)
class ResolvedModel:
    """Where the model lies."""

    model_path: Path
    model_id: str
    revision: str


def resolve(model_id: str | None, revision: str | None) -> ResolvedModel:
    """The bundled model, a local directory, or a Hub model; downloaded and converted where needed.

    Raises:
        BadSetting: There is no such model, it cannot be had, or it is incomplete.
        ModelNotSupported: It has only what cannot be converted.
        WeightsMismatch: Its weights are unreadable or incomplete.
    """
    if model_id is None:
        return ResolvedModel(_bundled(), BUNDLED_ID, "")
    if Path(model_id).is_dir():
        if revision is not None:
            log(
                logging.WARNING,
                f"`--revision` {revision} says nothing about the local directory {model_id}; it is served as it is",
            )
        return ResolvedModel(complete(Path(model_id).resolve()), model_id, "")
    if model_id.startswith((".", "/", "~")) or model_id.count("/") > 1:
        raise BadSetting(
            f"model directory {model_id} does not exist; give an existing directory or a Hub id such as org/name"
        )
    # Here, since a local model needs nothing of the Hub's client.
    from ribbon_server.download.hub import fetch

    found = fetch(model_id, revision)
    return ResolvedModel(complete(found.folder), model_id, found.commit)


def _bundled() -> Path:
    """The model that comes with the package, or with the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "demo_model"
    folder = inside if inside.is_dir() else package.parents[1] / "demo-model" / "weights"
    if not folder.is_dir():
        raise BadSetting(f"the bundled model is not at {folder}; give `--model-id`")
    return complete(folder)
