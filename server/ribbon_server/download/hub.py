"""Fetches a model from the Hugging Face Hub: the files that are needed, all of one commit. Knows the Hub, no tensors."""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from huggingface_hub import get_cached_repo_tree, resolve_revision, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    CachedRepoTreeNotFoundError,
    HFValidationError,
    HTTPError,  # the base of all that its HTTP library raises
    RevisionResolutionError,
)
from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

from ribbon_server.download.fetch_progress import said_now_and_then
from ribbon_server.download.refusal import refusal
from ribbon_server.errors import BadSetting
from ribbon_server.models.model_files import FORMATS, TOKENIZER_FILES, check_complete, weight_files, weight_format
from ribbon_server.telemetry import log

# Patterns match whole paths, so that names without a star stay out of a repository's folders.
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "chat_template.json",
    "*.jinja",
    *TOKENIZER_FILES,
    *(kind.index for kind in FORMATS),
)


@dataclass(frozen=True)
class Snapshot:
    """A model in the local cache."""

    folder: Path
    commit: str


def fetch(model_id: str, revision: str | None) -> Snapshot:
    """Downloads what is not in the cache yet; asks the Hub once which commit `revision` is, and for that commit from then on.

    Where the Hub cannot be reached, or HF_HUB_OFFLINE forbids it, the cache alone must do.

    Raises:
        BadSetting: It cannot be had; says why in one line.
        WeightsMismatch: Its index of weights names files that it does not have.
    """
    _say_as_we_do()
    log(logging.INFO, f"looking {model_id} up", model_id=model_id, revision=revision or "main")
    try:
        return _fetch(model_id, revision)
    except (HTTPError, HFValidationError, RevisionResolutionError, OSError) as error:
        raise BadSetting(refusal(model_id, revision, error)) from error


def _fetch(model_id: str, revision: str | None) -> Snapshot:
    started = time.monotonic()
    pinned = resolve_revision(model_id, revision=revision)
    folder = Path(snapshot_download(model_id, revision=pinned, allow_patterns=list(SMALL_FILES)))
    present = _file_sizes(model_id, pinned.resolved, folder)
    kind = weight_format(present)
    if kind is None:
        raise BadSetting(f"{model_id} has no weights that this server reads ({' or '.join(_weight_names())})")
    names = weight_files(folder, kind)
    check_complete(names, present, f"{model_id} at {pinned.resolved}")
    with said_now_and_then(folder.parents[1] / "blobs", sum(present[name] for name in names)):
        snapshot_download(model_id, revision=pinned, allow_patterns=[escape(name) for name in names])
    milliseconds = round((time.monotonic() - started) * 1000)
    log(logging.INFO, f"{model_id} at {pinned.resolved} is there after {milliseconds} ms", ms=milliseconds)
    return Snapshot(folder, pinned.resolved)


def _file_sizes(model_id: str, commit: str, folder: Path) -> Mapping[str, int]:
    """Bytes of all files of the commit, by path; of those in the cache where the Hub never told."""
    try:
        return {file.path: file.size for file in get_cached_repo_tree(model_id, revision=commit)}
    except CachedRepoTreeNotFoundError:
        return {path.name: path.stat().st_size for path in folder.iterdir()}


def _weight_names() -> list[str]:
    return [name for kind in FORMATS for name in (kind.single, kind.index)]


def _say_as_we_do() -> None:
    """Sends the client's warnings through our own handler, and leaves its bars to terminals."""
    logger = logging.getLogger("huggingface_hub")
    logger.handlers.clear()
    logger.propagate = True
    if not sys.stderr.isatty():
        disable_progress_bars()
