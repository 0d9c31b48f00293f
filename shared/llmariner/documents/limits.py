"""What parsing one document may cost."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ParserLimits"]


@dataclass(frozen=True)
class ParserLimits:
    """The limits of one document. A document beyond one of them is an invalid file."""

    file_bytes: int = 512 * 2**20
    """The size of the file. OpenAI's limit for files of vector stores is 512 MB."""
    seconds: float = 50
    """The time until the parser process is killed."""
    cpu_seconds: int = 30
    """The processor time of the parser process."""
    memory_bytes: int = 2**30
    """The address space of the parser process, of which its libraries take some 100 MiB."""
    output_bytes: int = 32 * 2**20
    """The size of the blocks in JSON. OpenAI's limit of 5,000,000 tokens is about 20 MB of English."""
    pages: int = 5_000
    """The number of pages or slides."""
    archive_entries: int = 10_000
    """The number of files in a document that is a ZIP archive (docx, pptx, xlsx, epub)."""
    inflated_bytes: int = 256 * 2**20
    """The sum of the sizes of those files."""
    compression_ratio: int = 200
    """How many times larger than its compressed form one of those files may be, if it is over 1 MiB."""
    part_depth: int = 20
    """How deep parts of an email or groups of shapes may be nested."""
