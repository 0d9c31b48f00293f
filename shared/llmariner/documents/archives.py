"""ZIP archives of other people, opened after a look at what they would inflate to. Nothing is written to a file system."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from llmariner.documents.errors import DocumentError
from llmariner.documents.limits import ParserLimits
from llmariner.documents.source import Source

__all__ = ["open_archive"]

_ENCRYPTED_FLAG = 0x1
# Small files may be of one repeated character.
_RATIO_FROM_BYTES = 2**20


@contextmanager
def open_archive(source: Source) -> Iterator[zipfile.ZipFile]:
    """The archive of a document, whose entries are within the limits. Raises DocumentError.

    The sizes are those that the archive declares; `zipfile` never inflates an entry beyond its declared size.
    """
    source.stream.seek(0)
    try:
        archive = zipfile.ZipFile(source.stream)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        message = "The file is a damaged or incomplete ZIP archive (docx, pptx, xlsx, epub). Upload it again."
        raise DocumentError.invalid(message, detail=repr(error)) from error
    with archive:
        _check(archive, source.limits)
        yield archive


def _check(archive: zipfile.ZipFile, limits: ParserLimits) -> None:
    entries = archive.infolist()
    if len(entries) > limits.archive_entries:
        raise DocumentError.invalid(
            f"The file is an archive of {len(entries)} files; {limits.archive_entries} are allowed."
        )
    if any(entry.flag_bits & _ENCRYPTED_FLAG for entry in entries):
        raise DocumentError.invalid("The file is encrypted. Remove its password and upload it again.")
    inflated = sum(entry.file_size for entry in entries)
    if inflated > limits.inflated_bytes:
        limit = limits.inflated_bytes // 2**20
        raise DocumentError.invalid(f"The file inflates to {inflated // 2**20} MiB; {limit} MiB are allowed. Split it.")
    for entry in entries:
        if entry.file_size > max(_RATIO_FROM_BYTES, entry.compress_size * limits.compression_ratio):
            raise DocumentError.invalid(
                "The file has a part that is compressed far more than documents are (a ZIP bomb)."
            )
