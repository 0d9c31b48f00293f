"""JSON Lines, checked while they stream in: the error names the line and the cause."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from hashlib import blake2b
from typing import Any

import orjson

from llmariner.errors import InvalidRequest

__all__ = [
    "MAX_BATCH_LINES",
    "MAX_LINES",
    "MAX_LINE_BYTES",
    "MAX_LINE_CONTAINERS",
    "MAX_LINE_KEYS",
    "JsonlCheck",
    "check_batch_line",
    "check_training_line",
]

MAX_LINE_BYTES = 8 * 1024 * 1024
"""A longer request could not be sent: it is the default limit of bodies on the token path."""
MAX_BATCH_LINES = 50_000
"""OpenAI's limit of requests of a batch. It also bounds the memory of the check for unique ids."""

MAX_LINES = 5_000_000
"""Blank lines included: each takes time."""

MAX_LINE_CONTAINERS = 300_000
"""Lists and objects of one line. The parser holds the interpreter for 0.1 s for as many, for 0.7 s for 8 MiB of them."""

MAX_LINE_KEYS = 300_000
"""Keys of all objects of one line. The parser takes 0.07 s for as many, and 0.26 s for 8 MiB of them."""

_LARGE_LINE_BYTES = 256 * 1024
_COUNTED_AT_ONCE = 64 * 1024
# A parsed line takes up to twenty times its bytes. One large line at a time bounds the memory of a process.
_large_lines = threading.Lock()
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
CheckLine = Callable[[dict[str, Any]], str | None]


class JsonlCheck:
    """Checks that each line is a JSON object which `check_line` finds nothing wrong with; blank lines are skipped.

    It holds one line in memory, of at most `MAX_LINE_BYTES`. `lines_before`: those that were checked already, of a file
    that is checked in several parts.
    """

    def __init__(self, check_line: CheckLine, lines_before: int = 0) -> None:
        self._check_line = check_line
        self._pending = bytearray()
        self._number = lines_before
        self._objects = 0

    @property
    def lines(self) -> int:
        """The number of lines that were checked, those before included."""
        return self._number

    def feed(self, data: bytes) -> None:
        """Check the lines that end in these bytes. Raises InvalidRequest."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if self._pending:
                self._keep(data[start:end])
                line, self._pending = bytes(self._pending), bytearray()
                self._check(line)
            else:
                self._check(data[start:end])
            start = end + 1
        self._keep(data[start:])

    def finish(self) -> None:
        """Check the last line, and that there is one. Raises InvalidRequest."""
        if self._pending:
            self._check(bytes(self._pending))
        if not self._objects:
            raise _invalid("The file has no lines: it must hold one JSON object per line.")

    def _keep(self, part: bytes) -> None:
        if len(self._pending) + len(part) > MAX_LINE_BYTES:
            raise self._too_long()
        self._pending += part

    def _check(self, line: bytes) -> None:
        self._number += 1
        if len(line) > MAX_LINE_BYTES:
            self._number -= 1
            raise self._too_long()
        if self._number > MAX_LINES:
            raise _invalid(f"The file has more than {MAX_LINES} lines: split it.")
        if self._number == 1 and line.startswith(_BYTE_ORDER_MARK):
            raise _invalid("The file begins with a byte order mark: save it as UTF-8 without one.")
        if not line.strip():
            return
        for marks, limit, what in ((b"[{", MAX_LINE_CONTAINERS, "lists and objects"), (b":", MAX_LINE_KEYS, "keys")):
            if _has_more_marks(line, marks, limit):
                raise _invalid(f"Line {self._number} has more than {limit} {what}: split it into several lines.")
        with _large_lines if len(line) > _LARGE_LINE_BYTES else nullcontext():
            self._check_object(line)

    def _check_object(self, line: bytes) -> None:
        try:
            document = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _invalid(
                f"Line {self._number} is not valid JSON: {error.msg} (column {error.colno}). Each line must be one JSON "
                "object in UTF-8."
            ) from error
        if not isinstance(document, dict):
            raise _invalid(f"Line {self._number} is not a JSON object: each line must be one.")
        self._objects += 1
        if cause := self._check_line(document):
            raise _invalid(f"Line {self._number}: {cause}.")

    def _too_long(self) -> InvalidRequest:
        return _invalid(f"Line {self._number + 1} is longer than {MAX_LINE_BYTES} bytes: split or shorten it.")


def check_batch_line() -> CheckLine:
    """A check of the requests of one batch, in OpenAI's form; it remembers the ids that it saw."""
    # Digests: an id of 512 characters may take two kilobytes of memory.
    seen: set[bytes] = set()

    def check(line: dict[str, Any]) -> str | None:
        custom_id = line.get("custom_id")
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 512:
            return "'custom_id' must be a text of 1 to 512 characters"
        digest = blake2b(custom_id.encode(errors="surrogatepass"), digest_size=16).digest()
        if digest in seen:
            return f"'custom_id' must be unique in the file, and '{custom_id[:64]}' stands before"
        if len(seen) == MAX_BATCH_LINES:
            return f"a batch has at most {MAX_BATCH_LINES} requests; split the file"
        seen.add(digest)
        if line.get("method") != "POST":
            return "'method' must be 'POST'"
        url = line.get("url")
        if not isinstance(url, str) or not url.startswith("/v1/"):
            return "'url' must be the path of a route, such as '/v1/chat/completions'"
        return None if isinstance(line.get("body"), dict) else "'body' must be a JSON object, the body of the request"

    return check


def check_training_line(line: dict[str, Any]) -> str | None:
    """What is wrong with a training example in one of OpenAI's forms: `messages`, a preference, or prompt and completion."""
    if "messages" in line:
        return _messages_fault(line["messages"], "messages")
    if "preferred_output" in line or "non_preferred_output" in line:
        given = line.get("input")
        prompt = given.get("messages") if isinstance(given, dict) else None
        return (
            _messages_fault(prompt, "input.messages")
            or _messages_fault(line.get("preferred_output"), "preferred_output")
            or _messages_fault(line.get("non_preferred_output"), "non_preferred_output")
        )
    if "prompt" in line and "completion" in line:
        texts = isinstance(line["prompt"], str) and isinstance(line["completion"], str)
        return None if texts else "'prompt' and 'completion' must be texts"
    return "a training example needs 'messages', or 'input' with 'preferred_output' and 'non_preferred_output'"


def _messages_fault(messages: Any, name: str) -> str | None:
    if not isinstance(messages, list) or not messages:
        return f"'{name}' must be a list with at least one message"
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return f"'{name}[{index}]' must be an object with a 'role'"
    return None


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="file", code="invalid_jsonl")


def _has_more_marks(line: bytes, marks: bytes, limit: int) -> bool:
    """Whether a line has more than `limit` of these characters; those in texts do not count. The loop yields to threads."""
    if _count(line, marks) <= limit:
        return False
    text = line.replace(rb"\\", b"").replace(rb"\"", b"")
    found, is_in_text = 0, 0
    for begin in range(0, len(text), _COUNTED_AT_ONCE):
        # Every other piece between quotation marks is outside of texts.
        pieces = text[begin : begin + _COUNTED_AT_ONCE].split(b'"')
        found += _count(b"".join(pieces[is_in_text::2]), marks)
        is_in_text ^= (len(pieces) - 1) & 1
    return found > limit


def _count(text: bytes, marks: bytes) -> int:
    return sum(map(text.count, marks))
