"""docs/documents.md has the limits and formats of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmariner.documents.limits import ParserLimits
from llmariner.vector_stores.chunking_strategy import ChunkingStrategy

PAGE = (Path(__file__).parents[3] / "docs" / "documents.md").read_text()
LIMITS = ParserLimits()


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("size of the file", f"{LIMITS.file_bytes // 2**20} MiB"),
        ("memory (address space)", f"{LIMITS.memory_bytes // 2**30} GiB"),
        ("text that is found", f"{LIMITS.output_bytes // 2**20} MiB"),
        ("pages or slides", f"{LIMITS.pages:,}"),
        (
            "files in an archive (docx, pptx, xlsx, epub)",
            f"{LIMITS.archive_entries:,}, inflated to {LIMITS.inflated_bytes // 2**20} MiB together",
        ),
        ("compression of one of them", f"{LIMITS.compression_ratio} times, from 1 MiB on"),
        ("parts of an email in each other", f"{LIMITS.part_depth}"),
    ],
)
def test_a_limit(limit: str, value: str) -> None:
    assert f"| {limit} | {value} |" in PAGE


def test_the_sizes_of_chunks() -> None:
    automatic = ChunkingStrategy()
    sizes = f"{automatic.max_chunk_size_tokens} and {automatic.chunk_overlap_tokens}"
    assert f"`auto` means {sizes}." in re.sub(r"\s+", " ", PAGE)
