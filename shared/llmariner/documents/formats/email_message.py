"""Email (eml): subject, sender, receivers, date, the text of the message, and the names of its attachments."""

from __future__ import annotations

import email
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message

from llmariner.documents.blocks import Block, BlockKind
from llmariner.documents.errors import DocumentError
from llmariner.documents.formats.html import html_blocks
from llmariner.documents.formats.plain_text import paragraphs
from llmariner.documents.source import Source, decode

__all__ = ["read"]

_HEADERS = ("From", "To", "Cc", "Date")
_HEADER_CHARACTERS = 2000


def read(source: Source) -> Iterator[Block]:
    """The blocks of a message. Raises DocumentError."""
    source.stream.seek(0)
    # The policy compat32, which is the default, leaves headers alone. Others parse addresses, in quadratic time.
    message = email.message_from_binary_file(source.stream)
    if not any(message.get(name) for name in ("From", "Subject", "Date", "Received")):
        raise DocumentError.invalid("The file is not an email: it has no header From, Subject or Date.")
    yield Block(BlockKind.HEADING, _header(message, "Subject") or "(no subject)", level=1)
    headers = [f"{name}: {value}" for name in _HEADERS if (value := _header(message, name))]
    yield Block(BlockKind.PARAGRAPH, "\n".join(headers))
    yield from _body(message, source.limits.part_depth)


def _header(message: Message[str, str], name: str) -> str:
    raw = str(message.get(name, ""))[:_HEADER_CHARACTERS]
    try:
        decoded = str(make_header(decode_header(raw)))
    except (HeaderParseError, LookupError, ValueError):
        decoded = raw
    return " ".join(decoded.split())


def _body(part: Message[str, str], depth: int) -> Iterator[Block]:
    """The texts of a part and of the parts in it. Of alternatives, plain text is preferred."""
    if not depth:
        raise DocumentError.invalid("The email has parts that are nested too deep.")
    kind = part.get_content_type()
    name = part.get_filename()
    if part.get_content_disposition() == "attachment" or name or kind == "message/rfc822":
        yield Block(BlockKind.PARAGRAPH, f"Attachment: {' '.join((name or kind).split())}")
    elif part.is_multipart():
        for inner in _chosen(part):
            yield from _body(inner, depth - 1)
    elif kind in ("text/plain", "text/html"):
        payload = part.get_payload(decode=True)
        data = payload if isinstance(payload, bytes) else b""
        charset = part.get_content_charset()
        yield from html_blocks(data, charset) if kind == "text/html" else paragraphs(decode(data, charset))


def _chosen(part: Message[str, str]) -> list[Message[str, str]]:
    """The parts to read. The last alternative is the richest (RFC 2046, 5.1.4); plain text has less noise."""
    payload = part.get_payload()
    parts = [inner for inner in payload if isinstance(inner, Message)] if isinstance(payload, list) else []
    if part.get_content_type() != "multipart/alternative":
        return parts
    plain = [inner for inner in parts if inner.get_content_type() == "text/plain" and str(inner.get_payload()).strip()]
    return plain[:1] or parts[-1:]
