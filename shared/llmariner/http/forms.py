"""Forms (multipart/form-data, RFC 7578) that are parsed while they arrive: no part of a file waits in memory or on disk."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import Request
from starlette.requests import ClientDisconnect

from llmariner.errors import BodyTooLarge, InvalidRequest, UnsupportedMedia
from llmariner.http.middleware.stack import CONTENT_ENCODING

__all__ = [
    "FORM_OVERHEAD_BYTES",
    "FormConsumer",
    "FormFile",
    "declared_file_bytes",
    "feed_body",
    "read_form",
    "run_to_end",
]

FORM_OVERHEAD_BYTES = 64 * 1024
"""What a form may have besides the bytes of its file."""

_BUFFER_BYTES = 1024 * 1024
_MAX_PARTS = 16
_MAX_FIELD_BYTES = 4096
_MAX_HEADERS = 16
_EXTENDED_NAME = re.compile(r";\s*filename\*\s*=\s*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)
# One that does not end takes the rest.
_QUOTED_STRING = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
Result = TypeVar("Result")


class FormFile(Protocol):
    """Takes the bytes of one file of a form."""

    def write(self, data: bytes) -> None:
        """The next bytes."""

    def end(self) -> None:
        """The file is complete."""


class FormConsumer(Protocol):
    """Takes the parts of a form in the order in which they arrive. Its methods run in threads, one at a time."""

    def field(self, name: str, value: str) -> None:
        """A field that is no file."""

    def file(self, name: str, file_name: str, headers: Mapping[str, str]) -> FormFile:
        """A file begins. `headers`: those of its part, names in lower case."""


async def run_to_end(work: Callable[[], Result]) -> Result:
    """Run `work` in a thread. A canceled caller waits for its end, so that nothing of it runs after the cleanup."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    finally:
        if not running.done():
            await asyncio.wait({running})
        del running  # its exception refers to this frame, and both would be freed only by the garbage collector


def declared_file_bytes(request: Request) -> int:
    """The least number of bytes that the file of a form has by its content-length; 0 where that says nothing."""
    length = request.headers.get("content-length", "")
    return max(0, int(length) - FORM_OVERHEAD_BYTES) if length.isdecimal() and len(length) < 20 else 0


async def read_form(request: Request, consumer: FormConsumer, *, max_file_bytes: int, hint: str) -> None:
    """Parse the body of a request and pass its parts on. At most two MiB of it are in memory.

    `hint`: a sentence that says what to do with a larger file.

    Raises UnsupportedMedia (also for a compressed body), BodyTooLarge, InvalidRequest for a malformed form and for one that
    ends early, and what the consumer raises.
    """
    # A few kilobytes would cost the work of half a gigabyte.
    if CONTENT_ENCODING in request.scope:
        raise UnsupportedMedia(
            "A form is not decompressed here: send it without 'content-encoding'. Its file may be a compressed one.",
            headers={"accept-encoding": "identity"},
        )
    if declared_file_bytes(request) > max_file_bytes:
        raise _too_large(max_file_bytes, hint)
    parser = _Parser(request.headers.get("content-type", ""), consumer)
    try:
        rest = await feed_body(
            request,
            parser.feed,
            max_bytes=max_file_bytes + FORM_OVERHEAD_BYTES,
            too_large=partial(_too_large, max_file_bytes, hint),
            ends_early=_ends_early,
        )
        await run_to_end(partial(parser.finish, rest))
    finally:
        parser.close()


async def feed_body(
    request: Request,
    feed: Callable[[bytes], None],
    *,
    max_bytes: int,
    too_large: Callable[[], InvalidRequest],
    ends_early: Callable[[], InvalidRequest],
) -> bytes:
    """Pass the body on to `feed`, in threads and one call at a time, but for its last bytes, which are returned.

    Raises the error of `too_large` or `ends_early`, and what `feed` raises.
    """
    received, buffer, running = 0, bytearray(), None
    error: BaseException | None = None
    try:
        async for part in request.stream():
            received += len(part)
            if received > max_bytes:
                raise too_large()
            buffer += part
            if len(buffer) >= _BUFFER_BYTES:
                if running is not None:
                    # A canceled caller does not cancel it: the thread would still work after the caller's cleanup.
                    await asyncio.shield(running)
                # The next part arrives while a thread works on this one.
                running = asyncio.ensure_future(asyncio.to_thread(feed, bytes(buffer)))
                buffer = bytearray()
    except ClientDisconnect as disconnect:
        raise ends_early() from disconnect
    finally:
        if running is not None:
            await asyncio.wait({running})
            error = None if running.cancelled() else running.exception()
            running = None
    if error is not None:
        try:
            raise error
        finally:
            error = None  # as in `run_to_end`
    return bytes(buffer)


class _Parser:
    """Adapts python-multipart's push parser, whose callbacks are named after events, to a FormConsumer."""

    def __init__(self, content_type: str, consumer: FormConsumer) -> None:
        # Imported here, since a function imports this module at its start.
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # the caller gets the error
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise UnsupportedMedia("Send the file as a form: 'content-type: multipart/form-data' with its boundary.")
        self._errors, self._parse_options = FormParserError, parse_options_header
        names = (
            "part_begin",
            "part_data",
            "part_end",
            "header_field",
            "header_value",
            "header_end",
            "headers_finished",
        )
        callbacks = {f"on_{name}": getattr(self, f"_on_{name}") for name in (*names, "end")}
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks, max_header_count=_MAX_HEADERS)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _malformed(str(error)) from error
        self._consumer = consumer
        self._parts, self._ended = 0, False
        self._on_part_begin()

    def close(self) -> None:
        """Let go of the parser, which refers to this object, and of the consumer, so that both are freed at once."""
        del self._parser, self._consumer

    def feed(self, data: bytes) -> None:
        """Parse the next bytes."""
        try:
            self._parser.write(data)
        except self._errors as error:
            raise _malformed(str(error)) from error

    def finish(self, data: bytes) -> None:
        """Parse the last bytes. Raises InvalidRequest where the form does not end with them."""
        self.feed(data)
        if not self._ended:
            raise _ends_early()

    def _on_part_begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._name, self._value = bytearray(), bytearray()
        self._file: FormFile | None = None
        self._field, self._field_name = bytearray(), ""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        name = self._name.decode("ascii").lower()
        if name in self._headers:
            raise _malformed(f"a part has two headers '{name[:64]}'")
        try:
            self._headers[name] = self._value.decode()
        except UnicodeDecodeError as error:
            raise _malformed("the header of a part is not UTF-8") from error
        self._name, self._value = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise _malformed(f"it has more than {_MAX_PARTS} parts")
        if self._headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
            raise _malformed("a part has a transfer encoding; send its bytes as they are")
        disposition = self._headers.get("content-disposition", "")
        kind, options = self._parse_options(disposition.encode())
        if kind != b"form-data" or b"name" not in options:
            raise _malformed("a part has no 'content-disposition: form-data' with its name")
        self._field_name = options[b"name"].decode()
        extended = _EXTENDED_NAME.search(_QUOTED_STRING.sub('""', disposition))
        if extended is not None:
            self._begin_file(unquote_to_bytes(extended[1]))
        elif b"filename" in options:
            self._begin_file(options[b"filename"])

    def _begin_file(self, file_name: bytes) -> None:
        try:
            text = file_name.decode()
        except UnicodeDecodeError as error:
            raise _malformed("the file's name is not UTF-8") from error
        self._file = self._consumer.file(self._field_name, text, self._headers)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = data if end - start == len(data) else data[start:end]
        if self._file is not None:
            self._file.write(part)
        elif len(self._field) + len(part) > _MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"The field '{self._field_name[:64]}' has more than {_MAX_FIELD_BYTES} bytes. A file needs a file name in "
                "its part's 'content-disposition'.",
                param=self._field_name[:64],
            )
        else:
            self._field += part

    def _on_part_end(self) -> None:
        if self._file is not None:
            self._file.end()
            return
        try:
            value = self._field.decode()
        except UnicodeDecodeError as error:
            raise _malformed(f"the field '{self._field_name[:64]}' is not UTF-8") from error
        self._consumer.field(self._field_name, value)

    def _on_end(self) -> None:
        self._ended = True


def _malformed(cause: str) -> InvalidRequest:
    return InvalidRequest(
        f"The body is not a valid form: {cause[:200]}. Send multipart/form-data as RFC 7578 defines it.",
        code="invalid_form",
    )


def _ends_early() -> InvalidRequest:
    return InvalidRequest(
        "The form ends before its last boundary; nothing was stored. Send it again.", code="invalid_form"
    )


def _too_large(max_file_bytes: int, hint: str) -> BodyTooLarge:
    return BodyTooLarge(f"The file of this form has at most {max_file_bytes} bytes. {hint}")
