"""Resolves a model id to a complete local directory. Imports no torch, so that the launcher's first step is quick."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ribbon_server.errors import BadSetting
from ribbon_server.telemetry import log

BUNDLED_ID = "ribbon/demo-model"
PATTERNS = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
NEEDED = ("config.json", "tokenizer.json")


@dataclass(frozen=True)
class ResolvedModel:
    """Where the model lies."""

    model_path: Path
    model_id: str
    revision: str


def resolve(model_id: str | None, revision: str | None) -> ResolvedModel:
    """The bundled model, a local directory, or a Hub model, downloaded where needed.

    Raises:
        BadSetting: There is no such model, or it is incomplete.
    """
    if model_id is None:
        return ResolvedModel(_checked(bundled_model()), BUNDLED_ID, "")
    if Path(model_id).is_dir():
        if revision is not None:
            log(
                logging.WARNING,
                f"`--revision` {revision} says nothing about the local directory {model_id}; it is served as it is",
            )
        return ResolvedModel(_checked(Path(model_id).resolve()), model_id, "")
    if model_id.startswith((".", "/", "~")) or model_id.count("/") > 1:
        raise BadSetting(
            f"model directory {model_id} does not exist; give an existing directory or a Hub id such as org/name"
        )
    folder = download(model_id, revision)
    return ResolvedModel(_checked(folder), model_id, folder.name)


def bundled_model() -> Path:
    """The model that comes with the package, or with the repository."""
    package = Path(__file__).resolve().parent
    inside = package / "demo_model"
    return inside if inside.is_dir() else package.parents[1] / "demo-model" / "weights"


def download(model_id: str, revision: str | None) -> Path:
    """The snapshot of a Hub model; its directory is named after the resolved commit."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    log(logging.INFO, f"looking {model_id} up", model_id=model_id, revision=revision or "main")
    arguments: dict[str, Any] = {"revision": revision, "allow_patterns": list(PATTERNS)}
    try:
        return Path(huggingface_hub.snapshot_download(model_id, **arguments))
    except LocalEntryNotFoundError as error:
        raise BadSetting(
            f"{model_id} is not in the local cache and the Hub cannot be reached; check the network or HF_HUB_OFFLINE"
        ) from error
    except HfHubHTTPError as error:
        raise BadSetting(
            f"{model_id} cannot be downloaded ({_first_line(error)}); check the id, `--revision` and HF_TOKEN"
        ) from error
    except (HFValidationError, OSError) as error:
        raise BadSetting(f"{model_id} is neither a directory nor a Hub model ({_first_line(error)})") from error


def _checked(folder: Path) -> Path:
    """Refuses a directory that cannot be served."""
    if not folder.is_dir():
        raise BadSetting(f"the bundled model is not at {folder}; give `--model-id`")
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise BadSetting(f"{folder} lacks {' and '.join(missing)}; give the directory of a complete model")
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise BadSetting(
            f"{folder} lacks safetensors weights ({' or '.join(WEIGHTS)}); other formats are not supported yet"
        )
    unreadable = [name for name in NEEDED if not os.access(folder / name, os.R_OK)]
    if unreadable:
        raise BadSetting(f"{folder / unreadable[0]} cannot be read; check its permissions")
    return folder


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
