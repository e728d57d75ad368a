"""Makes tokenizer.json of a slow tokenizer's files, by transformers' converters. Runs no code of the model's repository."""

import logging
import time
from pathlib import Path

from transformers import AutoTokenizer

from ribbon_server.download.written import whole_file
from ribbon_server.errors import ModelNotSupported
from ribbon_server.models.hf_config import read_json
from ribbon_server.models.model_files import TOKENIZER
from ribbon_server.telemetry import log

CONFIG = "tokenizer_config.json"


def convert(folder: Path) -> None:
    """Writes tokenizer.json into `folder`.

    Raises:
        BadSetting: The directory takes no file.
        ModelNotSupported: Nobody can convert it, or only code of the repository could.
    """
    started = time.monotonic()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        text = tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # a foreign file may break the converters in any way
        raise ModelNotSupported(
            f"{folder} lacks {TOKENIZER}, and it cannot be made: {_reason(folder, error)}; "
            f"supply a {TOKENIZER} (`save_pretrained` of a fast tokenizer writes one)"
        ) from error
    with whole_file(folder / TOKENIZER) as partial:
        partial.write_text(text)
    milliseconds = round((time.monotonic() - started) * 1000)
    log(logging.INFO, f"made {TOKENIZER} of a slow tokenizer in {milliseconds} ms", ms=milliseconds)


def _reason(folder: Path, error: Exception) -> str:
    if (folder / CONFIG).is_file() and "auto_map" in read_json(folder / CONFIG):
        return f"the tokenizer is Python code of the repository (`auto_map` in {CONFIG}), which is not run"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
