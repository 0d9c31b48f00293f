"""Purposes of files, with their rules: who may set them, what their content must be, when they expire by default."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from llmariner.errors import InvalidRequest
from llmariner.files.jsonl import JsonlCheck, check_batch_line, check_training_line

__all__ = [
    "UNLISTED",
    "UPLOADED",
    "ContentCheck",
    "Purpose",
    "content_check",
    "default_expiry_seconds",
    "parse_purpose",
    "parse_upload_purpose",
]

_BATCH_EXPIRY_SECONDS = 30 * 86400


class Purpose(StrEnum):
    """OpenAI's purposes, and those of files that only the platform uses."""

    ASSISTANTS = "assistants"
    BATCH = "batch"
    FINE_TUNE = "fine-tune"
    VISION = "vision"
    USER_DATA = "user_data"
    EVALS = "evals"
    ASSISTANTS_OUTPUT = "assistants_output"
    BATCH_OUTPUT = "batch_output"
    BATCH_JOB_OUTPUT = "batch_job_output"
    FINE_TUNE_RESULTS = "fine-tune-results"
    FINE_TUNE_STATE = "fine-tune-state"


UNLISTED = frozenset({Purpose.FINE_TUNE_STATE})
"""In no list of a project's files, and in no event. Their bytes count as those of the others."""
_OUTPUT = frozenset(
    {Purpose.ASSISTANTS_OUTPUT, Purpose.BATCH_OUTPUT, Purpose.BATCH_JOB_OUTPUT, Purpose.FINE_TUNE_RESULTS}
)
_LISTED = tuple(purpose for purpose in Purpose if purpose not in UNLISTED)
UPLOADED = tuple(purpose for purpose in _LISTED if purpose not in _OUTPUT)
"""Those that callers give their files."""


class ContentCheck(Protocol):
    """Checks content while it streams in, with bounded memory."""

    def feed(self, data: bytes) -> None:
        """Check the next bytes. Raises InvalidRequest."""

    def finish(self) -> None:
        """Check the end. Raises InvalidRequest."""


class _ImageCheck:
    """The first bytes are those of an image that vision models read."""

    def __init__(self) -> None:
        self._head = b""

    def feed(self, data: bytes) -> None:
        if len(self._head) < 12:
            self._head += data[: 12 - len(self._head)]

    def finish(self) -> None:
        webp = self._head[:4] == b"RIFF" and self._head[8:12] == b"WEBP"
        if not webp and not self._head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")):
            raise InvalidRequest(
                "The purpose 'vision' is for images in PNG, JPEG, GIF or WebP, and this file is none. Send it with the "
                "purpose 'user_data'.",
                param="file",
                code="unsupported_file",
            )


def parse_purpose(text: str) -> Purpose:
    """Any purpose that files of lists have. Raises InvalidRequest for other text."""
    if text not in _LISTED:
        raise InvalidRequest(
            f"'purpose' must be one of {', '.join(_LISTED)}, not '{text[:64]}'.", param="purpose", code="invalid_value"
        )
    return Purpose(text)


def parse_upload_purpose(text: str) -> Purpose:
    """A purpose that callers may give their files. Raises InvalidRequest for another one."""
    if text not in UPLOADED:
        made = " The platform gives this purpose to files that it makes itself." if text in list(_OUTPUT) else ""
        raise InvalidRequest(
            f"'purpose' must be one of {', '.join(UPLOADED)}, not '{text[:64]}'.{made}",
            param="purpose",
            code="invalid_value",
        )
    return Purpose(text)


def content_check(purpose: Purpose) -> ContentCheck | None:
    """A new check of the content of a file; None where any content will do."""
    if purpose is Purpose.BATCH:
        return JsonlCheck(check_batch_line())
    if purpose is Purpose.FINE_TUNE:
        return JsonlCheck(check_training_line)
    return _ImageCheck() if purpose is Purpose.VISION else None


def default_expiry_seconds(purpose: Purpose) -> int | None:
    """How long a file is kept whose creator does not say it; None: until it is deleted. OpenAI's rule."""
    return _BATCH_EXPIRY_SECONDS if purpose is Purpose.BATCH else None
