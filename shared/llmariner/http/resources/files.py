"""The form of POST /v1/files: its fields in any order, its file straight into the object store."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

from llmariner.errors import InvalidRequest
from llmariner.files.content import IncomingContent
from llmariner.files.expiry import parse_expiry
from llmariner.files.file import File, NewFile
from llmariner.files.files import Files
from llmariner.files.names import clean_file_name, media_type
from llmariner.files.purposes import Purpose, parse_upload_purpose
from llmariner.tenancy.principal import KeyOwner

__all__ = ["FileForm", "ReceivedFile"]

_FIELDS = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")


class FileForm:
    """A FormConsumer, and a context manager that discards the file's content unless `save` made a file of it."""

    def __init__(self, files: Files, owner: KeyOwner, *, size_bytes: int) -> None:
        self._files = files
        self._owner = owner
        self._size_bytes = size_bytes
        self._opened = ExitStack()
        self._fields: dict[str, str] = {}
        self._purpose: Purpose | None = None
        self._content: IncomingContent | None = None
        self._said: tuple[str, str] = ("", "")

    def close(self) -> None:
        """Discard what was not saved."""
        self._opened.close()

    def field(self, name: str, value: str) -> None:
        """A field of the form. Raises InvalidRequest for an unknown one, and for a second one."""
        self._check_name(name)
        if name == "file":
            raise InvalidRequest(
                "'file' must be a file: give its part a 'filename' in its 'content-disposition'.", param="file"
            )
        self._fields[name] = value
        if name == "purpose":
            self._purpose = parse_upload_purpose(value)

    def file(self, name: str, file_name: str, headers: Mapping[str, str]) -> ReceivedFile:
        """The file of the form. Raises InvalidRequest, and InsufficientQuota before its bytes arrive."""
        self._check_name(name)
        if name != "file":
            raise InvalidRequest(f"'{name}' must not be a file: the file's field is 'file'.", param=name)
        cleaned = clean_file_name(file_name)
        self._said = cleaned, media_type(headers.get("content-type"), cleaned)
        self._content = self._opened.enter_context(
            self._files.receive(
                self._owner,
                purpose=self._purpose,
                size_bytes=self._size_bytes,
                limit_bytes=self._files.settings.form_bytes,
            )
        )
        return ReceivedFile(self._content, headers, param="file")

    def save(self) -> File:
        """Make the file. Raises InvalidRequest where a field is missing, and as `Files.save`."""
        if self._content is None:
            raise _missing("file")
        if self._purpose is None:
            raise _missing("purpose")
        expiry = parse_expiry(self._fields.get("expires_after[anchor]"), self._fields.get("expires_after[seconds]"))
        return self._files.save(
            self._owner, NewFile(self._said[0], self._purpose, self._said[1], expiry), self._content
        )

    def _check_name(self, name: str) -> None:
        if name not in _FIELDS:
            raise InvalidRequest(
                f"Unknown parameter: '{name[:64]}'; the form has the fields {', '.join(_FIELDS)}.",
                param=name[:64],
                code="unknown_parameter",
            )
        if name in self._fields or (name == "file" and self._content is not None):
            raise InvalidRequest(
                f"'{name}' is given twice: send each field once.", param=name, code="duplicate_parameter"
            )


class _Incoming(Protocol):
    @property
    def size_bytes(self) -> int:
        """The number of bytes so far."""

    def write(self, data: bytes) -> None:
        """The next bytes."""


class ReceivedFile:
    """A FormFile whose bytes go to `incoming`; those that its part's headers announce must arrive. `param`: its field."""

    def __init__(self, incoming: _Incoming, headers: Mapping[str, str], *, param: str) -> None:
        self._incoming = incoming
        self._param = param
        self._length = headers.get("content-length")
        self._digest = _announced_md5(headers.get("content-md5"), param)
        self._md5 = hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> None:
        """The next bytes."""
        if self._digest is not None:
            self._md5.update(data)
        self._incoming.write(data)

    def end(self) -> None:
        """Raises InvalidRequest where the bytes are not those that were announced."""
        if self._length is not None and self._length != str(self._incoming.size_bytes):
            raise InvalidRequest(
                f"The part of the file has {self._incoming.size_bytes} bytes, and its 'content-length' says "
                f"{self._length[:20]}. Nothing was stored; send it again.",
                param=self._param,
                code="size_mismatch",
            )
        if self._digest is not None and self._digest != self._md5.digest():
            raise InvalidRequest(
                "The bytes of the file do not have the MD5 of the part's 'content-md5'. Nothing was stored; send it again.",
                param=self._param,
                code="checksum_mismatch",
            )


def _announced_md5(text: str | None, param: str) -> bytes | None:
    """The digest in a Content-MD5 header (RFC 1864)."""
    if text is None:
        return None
    try:
        digest = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        digest = b""
    if len(digest) != 16:
        raise InvalidRequest("'content-md5' of the file's part must be the MD5 in Base64, 24 characters.", param=param)
    return digest


def _missing(name: str) -> InvalidRequest:
    return InvalidRequest(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
