"""Writes a file into the model's directory whole or not at all, since others may read it meanwhile. Knows no format."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from ribbon_server.errors import BadSetting


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Gives a path to write to, which becomes `target` at the end; after a failure nothing is left of it.

    Raises:
        BadSetting: The directory or disk takes no file.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, target)
    except (OSError, SafetensorError) as error:
        raise BadSetting(
            f"{target} cannot be written ({error}); the model lacks it, and it is made from other files of the directory: "
            "make room and give permission, or supply the file"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
