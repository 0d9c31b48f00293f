"""Why the text of a document can't be read, in OpenAI's codes for files of vector stores."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["DocumentError", "DocumentErrorCode"]


class DocumentErrorCode(StrEnum):
    """The values of `last_error.code` of a file of a vector store."""

    SERVER_ERROR = "server_error"
    """The file is not the cause; parsing it again may succeed."""
    UNSUPPORTED_FILE = "unsupported_file"
    """The file is of a type that is not read."""
    INVALID_FILE = "invalid_file"
    """The file is damaged, encrypted, without text, or beyond a limit. Parsing it again fails again."""


class DocumentError(Exception):
    """A document whose text can't be read. `message` is for the file's owner; `detail` is for logs alone."""

    def __init__(self, code: DocumentErrorCode, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail

    @classmethod
    def invalid(cls, message: str, *, detail: str = "") -> DocumentError:
        """An error of the file itself."""
        return cls(DocumentErrorCode.INVALID_FILE, message, detail=detail)

    @classmethod
    def unsupported(cls, message: str) -> DocumentError:
        """An error of the file's type."""
        return cls(DocumentErrorCode.UNSUPPORTED_FILE, message)
