"""The errors of the packages that open stores: what they mean, and what a user can do.

s3fs, gcsfs and huggingface_hub each have their own, which are recognised by their names, so that
none of these packages is imported for it.
"""

from __future__ import annotations

import asyncio
import json

from .errors import first_line

LOG_IN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run: aws configure",
    "gs": "run: gcloud auth application-default login",
    "hf": "set HF_TOKEN, or run: hf auth login",
}
"""How to give credentials for a store."""
ADDRESS = {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST", "hf": "HF_ENDPOINT"}
"""The variable that names another server of a store."""
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
NO_CONNECTION = {"EndpointConnectionError", "ConnectError", "ClientConnectorError"}


def refusal(store: str, error: BaseException) -> str:
    """Say why a store refuses a request, and what to do; empty where it failed in another way.

    Args:
        store: s3, gs or hf.
        error: what its package raised.
    """
    status, log_in = _status(error), LOG_IN.get(store, "")
    if status == 401 or _names(error) & NO_CREDENTIALS:
        return (
            f"there are no credentials, or they are not accepted ({reason(error)}). To log in, "
            f"{log_in}"
        )
    if status == 403 or isinstance(error, PermissionError):
        return (
            f"access is denied ({reason(error)}). Check the credentials and what they allow; to "
            f"log in, {log_in}"
        )
    damaged = isinstance(error, json.JSONDecodeError | UnicodeError)  # an answer that is cut short
    if isinstance(error, ValueError) and not damaged:
        return f"the store does not accept it ({reason(error)}). Check the name."
    return ""


def beyond_the_end(error: BaseException) -> bool:
    """Whether an object ends before the bytes that were requested."""
    return _status(error) == 416 or "range is not satisfiable" in str(error)


def _status(error: BaseException) -> int:
    """The HTTP status of the answer that an error tells of; 0: none is known."""
    if str(error).startswith("Forbidden:"):  # gcsfs: an OSError
        return 403
    for code in (getattr(error, "code", 0), getattr(_answer(error), "status_code", 0)):
        if str(code).isdecimal() and int(code):
            return int(code)
    return 0


def no_connection(error: BaseException) -> bool:
    """Whether an error tells that there was no connection to the store."""
    return isinstance(error, ConnectionRefusedError) or bool(_names(error) & NO_CONNECTION)


def reason(error: BaseException) -> str:
    """Return the line of an error's message that tells why."""
    if isinstance(error, TimeoutError | asyncio.TimeoutError) and not str(error):
        return "it did not answer in time"
    lines = str(error).strip().splitlines()
    if len(lines) > 1 and lines[0].startswith("Forbidden:"):  # gcsfs: only an address
        return lines[1][:200]
    return first_line(error)


def _answer(error: BaseException) -> object:
    return getattr(error, "response", None)


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
