"""What an engine refused, as one of our errors, in one sentence and with OpenAI's name of the field.

vLLM's validation is pydantic's: a list of errors printed as Python, one for each way in which a value could have been right.
The first of them says what its caller needs; the rest is internals.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from llmariner.errors import EngineFailed, InvalidRequest, ModelNotFound, PlatformError, Unavailable

__all__ = ["engine_error"]

_MAX_MESSAGE_LENGTH = 2000
# Of a field's name, in characters and in parts: an engine may write a million of them.
_MAX_NAME_LENGTH = 256
_MAX_NAME_PARTS = 32
_REPR_HEADER = re.compile(r"(\d+) validation errors?\b")
_REPR_MESSAGE = re.compile(r"""'msg': (?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")""")
# The same as pydantic prints it itself: a place in its own terms, then a sentence, then its kind in brackets.
_PYDANTIC_TEXT = re.compile(r"(\d+) validation errors? for [^\n]*\n[^\n]*\n +([^\n]*?) \[type=")
_VALUE_ERROR = "Value error, "


def engine_error(status: int, body: bytes, model: str) -> PlatformError:
    """4xx are the caller's to mend, and so is what no engine of that model can do; other 5xx are not."""
    message, param = _message_and_param(body)
    if status == 404:
        return _not_found(message, param, model)
    if (400 <= status < 500 and status != 429) or status == 501:
        code = "context_length_exceeded" if "max_model_len" in message or "context length" in message else None
        return InvalidRequest(message or "The engine refused the request.", param=param, code=code)
    if status in (429, 503):
        return Unavailable(message or "The engine is overloaded; try again shortly.", headers={"retry-after": "1"})
    return EngineFailed("The engine failed on this request. Try again; if it fails again, see `llma logs`.")


def _not_found(message: str, param: str | None, model: str) -> PlatformError:
    """Of the three things that an engine may not find: the model, the route, and what a request names."""
    if param == "model":
        return ModelNotFound(model)
    if message.lower() in ("", "not found"):
        return InvalidRequest(
            f"The engine of the model `{model}` does not serve this route.", param="model", code="unsupported_model"
        )
    return InvalidRequest(message, param=param)


def _message_and_param(body: bytes) -> tuple[str, str | None]:
    """The message and field of an engine's error, whichever of the known shapes it has."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body[:500].decode(errors="replace"), None
    holder = value.get("error", value) if isinstance(value, dict) else {}
    if not isinstance(holder, dict):
        return (holder[:500] if isinstance(holder, str) else ""), None
    param = holder.get("param")
    message = holder.get("message") or holder.get("detail") or ""
    if isinstance(message, list):
        return _from_error_list(message)
    text = message[:_MAX_MESSAGE_LENGTH] if isinstance(message, str) else ""
    found = _openai_param(param) if isinstance(param, str) else None
    if (header := _REPR_HEADER.match(text)) and (said := _REPR_MESSAGE.search(text)):
        text = _sentence(said[1] or said[2], int(header[1]), found)
    elif printed := _PYDANTIC_TEXT.match(text):
        text = _sentence(printed[2], int(printed[1]), found)
    return text, found


def _from_error_list(errors: list[Any]) -> tuple[str, str | None]:
    """FastAPI's own shape: a list of objects with `loc` and `msg`."""
    first = errors[0] if errors and isinstance(errors[0], dict) else {}
    loc = first.get("loc")
    param = _openai_param(".".join(str(each) for each in loc[:_MAX_NAME_PARTS])) if isinstance(loc, list) else None
    said = first.get("msg")
    text = said[:_MAX_MESSAGE_LENGTH] if isinstance(said, str) else "The engine refused the request"
    return _sentence(text, len(errors), param), param


def _sentence(said: str, errors: int, param: str | None) -> str:
    said = said.removeprefix(_VALUE_ERROR).replace("\\n", " ").replace("\\'", "'").rstrip(".")
    about = f"Invalid '{param}': " if param else ""
    return f"{about}{said}." if errors == 1 else f"{about}{said} (the first of {errors} errors)."


def _openai_param(path: str) -> str | None:
    """`messages[0].content` of `body.messages.0.content`; None of the body as a whole."""
    name = ""
    for part in path[:_MAX_NAME_LENGTH].removeprefix("body").strip(".").split("."):
        name += f"[{part}]" if part.isdigit() else f".{part}"
    return name.strip(".") or None
