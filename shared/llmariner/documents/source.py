"""A document as the parsers get it, and the decoding of text."""

from __future__ import annotations

import codecs
import re
import unicodedata
from dataclasses import dataclass
from typing import BinaryIO

from llmariner.documents.errors import DocumentError
from llmariner.documents.limits import ParserLimits

__all__ = ["Source", "decode", "normalize"]

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# A longest UTF-8 sequence that is cut off at the end of a file.
_CUT_OFF_BYTES = 3
# Text in Western languages has fewer letters with diacritics than this; other legacy encodings have more bytes over 127.
_WESTERN_SHARE = 0.2
_REMOVED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\xad\ud800-\udfff\ufeff]")
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_TEXT_ADVICE = "Convert it to UTF-8 and upload it again."


@dataclass(frozen=True)
class Source:
    """`stream`: the file, from its first byte. `extension`: lowercase, with its dot, or empty. `charset`: as declared."""

    stream: BinaryIO
    extension: str
    charset: str | None
    limits: ParserLimits

    def text(self) -> str:
        """The whole file as text. Raises DocumentError."""
        self.stream.seek(0)
        return decode(self.stream.read(), self.charset)


def decode(data: bytes, charset: str | None = None) -> str:
    """Text of unknown encoding, with `\\n` at the ends of lines. Raises DocumentError.

    The encoding is that of the byte order mark, UTF-8, the declared one, or Windows-1252 where the bytes look like a
    Western language. Anything else is refused: wrong characters would be indexed without notice.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _checked(_decode_strictly(data[len(mark) :], encoding))
    try:
        return _checked(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        position = error.start
        is_cut_off = position >= len(data) - _CUT_OFF_BYTES and error.reason == "unexpected end of data"
        # Alone in a file, the start of a sequence is a letter of another encoding.
        if is_cut_off and not data[:position].isascii():
            return _checked(data[:position].decode("utf-8"))
    if charset and _is_known(charset):
        return _checked(_decode_strictly(data, charset))
    return _checked(_decode_western(data, position))


def normalize(text: str) -> str:
    """Text as it is stored and searched: in Unicode's normal form C, with `\\n` at the ends of lines.

    It has no characters that databases refuse (controls but tabs and newlines, lone surrogates), and none that hide
    words from a search (soft hyphens, byte order marks).
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n").replace("\v", "\n")
    return unicodedata.normalize("NFC", _REMOVED.sub("", text))


def _is_known(charset: str) -> bool:
    try:
        # Codecs that are no encodings of text (base64, zlib) are refused here; zlib would inflate without a limit.
        return codecs.lookup(charset)._is_text_encoding and charset.lower() not in ("idna", "punycode")
    except (LookupError, ValueError):
        return False


def _decode_strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeError as error:
        message = f"The file is not valid text in the encoding {encoding}, which it declares. {_TEXT_ADVICE}"
        raise DocumentError.invalid(message) from error


def _decode_western(data: bytes, position: int) -> str:
    high = sum(len(part) for part in re.findall(rb"[\x80-\xff]+", data))
    has_sequences = re.search(rb"[\xc3-\xf4][\x80-\xbf]", data) is not None
    if not has_sequences and high <= len(data) * _WESTERN_SHARE and not _BINARY.search(data):
        try:
            return data.decode("cp1252")
        except UnicodeDecodeError:
            pass
    raise DocumentError.invalid(f"The file is not UTF-8 text: the byte at position {position} is wrong. {_TEXT_ADVICE}")


def _checked(text: str) -> str:
    if "\0" in text:
        raise DocumentError.invalid(f"The file has NUL characters, which text has not. {_TEXT_ADVICE}")
    return normalize(text)
