"""Why a model cannot be had from the Hub, in one line that says what to do. Knows the Hub's client's errors."""

import errno

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
LATER = "whole files are kept, start again when it is back"


def refusal(model_id: str, revision: str | None, error: Exception) -> str:
    """One line for an error of the client, or for the answer of the Hub that it came from."""
    answer = next((link for link in _chain(error) if isinstance(link, HfHubHTTPError)), None)
    if answer is not None:
        return _answered(model_id, revision, answer)
    if isinstance(error, HFValidationError):
        return f"{model_id} is neither a directory nor a Hub model ({_first_line(error)})"
    cause = _chain(error)[-1]
    if isinstance(cause, OSError) and cause.errno in UNWRITABLE:
        return f"{model_id} cannot be kept in the local cache {constants.HF_HUB_CACHE} ({cause}); make room and give permission, or set HF_HOME"
    if constants.HF_HUB_OFFLINE or any(isinstance(link, OfflineModeIsEnabled) for link in _chain(error)):
        return (
            f"{model_id} at {revision or 'main'} is not complete in the local cache {constants.HF_HUB_CACHE}, "
            "and HF_HUB_OFFLINE forbids to download it; fetch it once without"
        )
    return f"{model_id} cannot be downloaded from {constants.ENDPOINT} ({_first_line(cause)}); {LATER}"


def _answered(model_id: str, revision: str | None, answer: HfHubHTTPError) -> str:
    status, told = answer.response.status_code, answer.server_message
    if isinstance(answer, RevisionNotFoundError):
        return f"{model_id} has no revision {revision or 'main'}; give a branch, tag or commit of it (`--revision`)"
    if isinstance(answer, GatedRepoError) or status == 403:
        return f"{model_id} is gated: {_access(model_id)}"
    # To those without a token the Hub answers 401 for a model that does not exist.
    if isinstance(answer, RepositoryNotFoundError) or status == 404 or (status == 401 and get_token() is None):
        return f"{model_id} does not exist on {constants.ENDPOINT} or is private; check the id, and HF_TOKEN for a private one"
    if status == 401:
        return f"the Hub does not accept the token for {model_id}; set HF_TOKEN to a valid one"
    return f"{model_id} cannot be downloaded: {constants.ENDPOINT} answered {status} ({told or 'no reason'}); {LATER}"


def _access(model_id: str) -> str:
    if get_token() is None:
        return "no token was given; set HF_TOKEN to the token of an account that has access"
    return f"the token gives no access; ask for it on {constants.ENDPOINT}/{model_id}, or set HF_TOKEN to another"


def _chain(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *_chain(error.__cause__)]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
