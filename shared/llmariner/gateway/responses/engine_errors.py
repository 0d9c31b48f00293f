"""Translation of an engine's error response into a platform error with one sentence and OpenAI's name of the field.

vLLM validates with pydantic, which lists one error, printed as Python, for each alternative type of a value. The first error
is what the client needs; the others describe internals.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from llmariner.errors import EngineFailed, InvalidRequest, ModelNotFound, PlatformError, Unavailable

__all__ = ["engine_error"]

_MAX_MESSAGE_LENGTH = 2000
# Limits of a field's name, which the engine controls.
_MAX_NAME_LENGTH = 256
_MAX_NAME_PARTS = 32
_REPR_HEADER = re.compile(r"(\d+) validation errors?\b")
_REPR_MESSAGE = re.compile(r"""'msg': (?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")""")
# The same in pydantic's own format: the field's location, then a sentence, then the error type in brackets.
_PYDANTIC_TEXT = re.compile(r"(\d+) validation errors? for [^\n]*\n[^\n]*\n +([^\n]*?) \[type=")
_VALUE_ERROR = "Value error, "


def engine_error(status: int, body: bytes, model: str) -> PlatformError:
    """InvalidRequest or ModelNotFound for 4xx and 501, Unavailable for 429 and 503, else EngineFailed."""
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
    """The error for a 404, which may concern the model, the route, or an object in the request."""
    if param == "model":
        return ModelNotFound(model)
    if message.lower() in ("", "not found"):
        return InvalidRequest(
            f"The engine of the model `{model}` does not serve this route.", param="model", code="unsupported_model"
        )
    return InvalidRequest(message, param=param)


def _message_and_param(body: bytes) -> tuple[str, str | None]:
    """The message and the field of an error body in any of the supported formats."""
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
    openai_param = _openai_param(param) if isinstance(param, str) else None
    if (repr_header := _REPR_HEADER.match(text)) and (first_message := _REPR_MESSAGE.search(text)):
        text = _format_message(first_message[1] or first_message[2], int(repr_header[1]), openai_param)
    elif pydantic_text := _PYDANTIC_TEXT.match(text):
        text = _format_message(pydantic_text[2], int(pydantic_text[1]), openai_param)
    return text, openai_param


def _from_error_list(errors: list[Any]) -> tuple[str, str | None]:
    """The same for FastAPI's format: a list of objects with `loc` and `msg`."""
    first = errors[0] if errors and isinstance(errors[0], dict) else {}
    loc = first.get("loc")
    param = _openai_param(".".join(str(each) for each in loc[:_MAX_NAME_PARTS])) if isinstance(loc, list) else None
    first_message = first.get("msg")
    text = first_message[:_MAX_MESSAGE_LENGTH] if isinstance(first_message, str) else "The engine refused the request"
    return _format_message(text, len(errors), param), param


def _format_message(first_message: str, errors: int, param: str | None) -> str:
    first_message = first_message.removeprefix(_VALUE_ERROR).replace("\\n", " ").replace("\\'", "'").rstrip(".")
    about = f"Invalid '{param}': " if param else ""
    return f"{about}{first_message}." if errors == 1 else f"{about}{first_message} (the first of {errors} errors)."


def _openai_param(path: str) -> str | None:
    """Convert `body.messages.0.content` to `messages[0].content`; None for the body as a whole."""
    name = ""
    for part in path[:_MAX_NAME_LENGTH].removeprefix("body").strip(".").split("."):
        name += f"[{part}]" if part.isdigit() else f".{part}"
    return name.strip(".") or None
