"""Names and media types that callers give their files. They are shown and sent back, and a batch job's files have them."""

from __future__ import annotations

import re
import unicodedata
from mimetypes import MimeTypes

from llmariner.errors import InvalidRequest

__all__ = ["clean_file_name", "media_type"]

_MAX_NAME = 255
_UNKNOWN_TYPE = "application/octet-stream"
# Control characters, lone surrogates, line and paragraph separators.
_DROPPED_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# They change the order in which a name is shown, so that 'exe.txt' may be the end of another name.
_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# RFC 6838, 4.2.
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,62}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,62}", re.ASCII)
# The types that Python knows itself: those of the machine's files differ between machines.
_KNOWN_TYPES = MimeTypes(())


def clean_file_name(text: str, *, param: str = "file") -> str:
    """The last part of a name, without control characters. Raises InvalidRequest where nothing remains, or too much."""
    name = re.split(r"[/\\]", text)[-1]
    kept = "".join(
        character
        for character in name
        if unicodedata.category(character) not in _DROPPED_CATEGORIES and character not in _BIDIRECTIONAL
    ).strip()
    if kept in ("", ".", ".."):
        raise InvalidRequest("The file has no name: give it one, such as 'report.pdf'.", param=param)
    if len(kept) > _MAX_NAME:
        raise InvalidRequest(
            f"The file's name has {len(kept)} characters; the maximum is {_MAX_NAME}. Rename it.", param=param
        )
    return kept


def media_type(said: str | None, filename: str) -> str:
    """The media type that the caller said, without parameters, else the one of the name's ending."""
    plain = (said or "").partition(";")[0].strip().lower()
    if plain != _UNKNOWN_TYPE and _MEDIA_TYPE.fullmatch(plain):
        return plain
    guessed, encoding = _KNOWN_TYPES.guess_type(filename)
    return guessed if guessed and encoding is None else _UNKNOWN_TYPE
