"""Chunks: bounds, coverage, boundaries, headings, tables."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmariner.documents.blocks import Block, BlockKind, TextChunk
from llmariner.documents.chunking import CHUNK_BYTES, chunk
from llmariner.documents.passages import BLOCK_SEPARATOR
from llmariner.documents.tokens import EstimatedTokens

ESTIMATE = EstimatedTokens()


def words(texts: list[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def characters(texts: list[str]) -> list[int]:
    return [len(text) for text in texts]


def superadditive(texts: list[str]) -> list[int]:
    """Joined texts have more tokens than their parts: no tokenizer is that bad."""
    return [len(text.split()) + len(text) ** 2 // 400 for text in texts]


def text_of(blocks: list[Block]) -> str:
    return BLOCK_SEPARATOR.join(block.text for block in blocks)


def paragraph(text: str, page: int | None = None) -> Block:
    return Block(BlockKind.PARAGRAPH, text, page)


def heading(text: str, level: int = 1, page: int | None = None) -> Block:
    return Block(BlockKind.HEADING, text, page, level)


def sentences(count: int, start: int = 0) -> str:
    return " ".join(f"This is sentence number {number}." for number in range(start, start + count))


TEXTS = st.text(st.sampled_from("ab .!?\n|-#é漢😀\t"), max_size=300) | st.text(max_size=80)
BLOCKS = st.lists(
    st.builds(Block, st.sampled_from(BlockKind), TEXTS, st.none() | st.integers(1, 9), st.integers(0, 7)), max_size=12
)
COUNTERS = st.sampled_from([ESTIMATE, words, characters, superadditive])


# White space before a chunk's first text, all of which fits into the overlap.
AFTER_WHITE_SPACE = [
    *(heading("", 0) for _ in range(6)),
    paragraph(""),
    heading("0000000", 0),
    *(paragraph(text) for text in ("?", "??", "0")),
]


@settings(max_examples=300, deadline=None)
@given(BLOCKS, COUNTERS, st.integers(16, 120), st.floats(0, 0.5))
@example(AFTER_WHITE_SPACE, characters, 32, 0.5)
def test_chunks_keep_their_bounds_and_cover_the_text(
    blocks: list[Block], counter: object, size: int, share: float
) -> None:
    assert callable(counter)
    chunks = list(chunk(iter(blocks), counter, size, int(size * share)))
    text = text_of(blocks)
    covered = [False] * len(text)
    for found in chunks:
        assert found.text.endswith(text[found.start : found.end])
        assert found.tokens == counter([found.text])[0]
        assert found.tokens <= size or len(text[found.start : found.end]) == 1
        covered[found.start : found.end] = [True] * (found.end - found.start)
    assert all(is_covered or character.isspace() for is_covered, character in zip(covered, text, strict=True))
    assert [found.index for found in chunks] == list(range(len(chunks)))
    for earlier, later in itertools.pairwise(chunks):
        assert earlier.start < later.start
        assert earlier.end <= later.end


@given(BLOCKS)
@settings(max_examples=50, deadline=None)
def test_the_same_document_has_the_same_chunks(blocks: list[Block]) -> None:
    assert list(chunk(blocks, ESTIMATE, 64, 20)) == list(chunk(iter(blocks), ESTIMATE, 64, 20))


def test_chunks_of_prose_overlap_by_whole_sentences_within_the_limit() -> None:
    chunks = list(chunk([paragraph(sentences(2000))], words, 800, 400))
    assert len(chunks) == pytest.approx(2000 * 5 / (800 - 400), abs=2)
    for earlier, later in itertools.pairwise(chunks):
        assert 395 <= _shared_words(earlier, later) <= 400
        assert later.text.startswith("This is sentence")
        assert earlier.text.endswith(".")


def _shared_words(earlier: TextChunk, later: TextChunk) -> int:
    return len(earlier.text[later.start - earlier.start :].split())


def test_a_chunk_fits_where_joined_texts_have_more_tokens_than_their_parts() -> None:
    chunks = list(chunk([heading("Title"), paragraph(sentences(200))], superadditive, 100, 20))
    assert 50 < max(found.tokens for found in chunks) <= 100


def test_without_overlap_each_word_is_in_one_chunk() -> None:
    chunks = list(chunk([paragraph(sentences(300))], words, 100, 0))
    assert " ".join(found.text for found in chunks) == sentences(300)


def test_a_chunk_ends_with_a_paragraph_rather_than_in_the_next_one() -> None:
    blocks = [paragraph(sentences(18)), paragraph(sentences(18, 18))]
    assert [found.text for found in chunk(blocks, words, 100, 0)] == [block.text for block in blocks]


def test_a_chunk_has_the_headings_above_it_and_not_those_of_other_sections() -> None:
    blocks = [
        heading("Guide"),
        heading("Install", 2),
        paragraph(sentences(30)),
        heading("Remove", 2),
        paragraph(sentences(3)),
        heading("License"),
        paragraph("It is free."),
    ]
    chunks = list(chunk(blocks, words, 100, 20))
    assert [found.headings for found in chunks] == [("Guide", "Install"), ("Guide", "Install"), ("Guide", "Remove")]
    assert chunks[0].text.startswith("Guide\n\nInstall\n\nThis is sentence number 0.")
    assert chunks[1].text.startswith("Guide > Install\n\nThis is sentence")
    assert chunks[2].text.startswith("Guide\n\nRemove\n\nThis is sentence number 0.")


def test_a_chunk_does_not_end_with_a_heading() -> None:
    blocks = [paragraph(sentences(18)), heading("Next"), paragraph(sentences(18, 18))]
    first, second = chunk(blocks, words, 100, 0)
    assert first.text == blocks[0].text
    assert second.text.startswith("Next\n\nThis is sentence number 18.")


def test_headings_too_long_for_their_share_are_left_out_from_the_highest() -> None:
    blocks = [heading("long " * 80, 1), heading("Short", 2), paragraph(sentences(60))]
    last = list(chunk(blocks, words, 60, 0))[-1]
    assert last.text.startswith("Short\n\nThis is")
    assert len(last.headings[0]) == 200


def test_a_table_is_split_by_rows_with_its_header_in_each_chunk() -> None:
    rows = [f"| {number} | value {number} |" for number in range(200)]
    header = "| id | name |\n| --- | --- |\n"
    chunks = list(chunk([Block(BlockKind.TABLE, header + "\n".join(rows))], words, 100, 20))
    assert len(chunks) > 10
    for found in chunks:
        assert found.text.startswith(header)
        assert found.text.count(header) == 1
        assert all(row in rows for row in found.text.removeprefix(header).split("\n"))
    assert {row for found in chunks for row in found.text.split("\n")[2:]} == set(rows)


def test_code_is_split_between_lines() -> None:
    lines = [f"    value_{number} = compute({number}, {number + 1})" for number in range(200)]
    text = "def f():\n" + "\n".join(lines)
    for found in chunk([Block(BlockKind.CODE, text)], ESTIMATE, 100, 20):
        assert all(line.strip() in text.replace("    ", "").split("\n") for line in found.text.split("\n"))


def test_a_chunk_has_the_page_where_it_begins() -> None:
    blocks = [paragraph(sentences(18, page), page) for page in (1, 2, 3)]
    assert [found.page for found in chunk(blocks, words, 100, 0)] == [1, 2, 3]


def test_a_word_without_end_is_split_by_characters_and_bytes() -> None:
    text = "漢" * 200_000
    chunks = list(chunk([paragraph(text)], words, 4096, 2048))
    assert all(len(found.text.encode()) <= CHUNK_BYTES for found in chunks)
    assert len(chunks) < 30
    assert chunks[-1].end == len(text)


def test_long_lines_take_time_in_proportion_to_their_length() -> None:
    counted = 0

    def counting(texts: list[str]) -> list[int]:
        nonlocal counted
        counted += sum(map(len, texts))
        return ESTIMATE(texts)

    text = "word " * 100_000
    assert len(list(chunk([paragraph(text)], counting, 800, 400))) > 200
    assert counted < 6 * len(text)


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (-5, 0), (15, 0), (100, 51), (100, -1)])
def test_sizes_that_make_no_sense_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=r"max_tokens|overlap"):
        chunk([], ESTIMATE, size, overlap)


def test_a_document_without_text_has_no_chunks() -> None:
    assert list(chunk([], ESTIMATE, 100, 0)) == []
    assert list(chunk([paragraph(" \n ")], ESTIMATE, 100, 0)) == []


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        (" \n\t", 0),
        ("the", 1),
        ("hello", 2),
        ("internationalization", 5),
        ("2026", 4),
        ("a, b!", 4),
        ("文書", 4),
        ("é", 1),
        ("😀", 4),
        ("привет", 6),
    ],
)
def test_estimated_tokens(text: str, tokens: int) -> None:
    assert EstimatedTokens()([text]) == [tokens]


def test_no_word_of_the_document_is_changed() -> None:
    blocks = [heading("Title"), paragraph(sentences(50)), Block(BlockKind.CODE, "x = 1\ny = 2")]
    known = set(re.findall(r"\w+", text_of(blocks)))
    for found in chunk(blocks, ESTIMATE, 50, 25):
        assert set(re.findall(r"\w+", found.text)) <= known


@pytest.mark.parametrize("size", [100, 800])
def test_deep_and_long_headings_are_counted_once_and_not_for_each_sentence(size: int) -> None:
    counted = 0

    def count(texts: list[str]) -> list[int]:
        nonlocal counted
        counted += sum(len(text) for text in texts)
        return ESTIMATE(texts)

    headings = [heading((f"h{level} " + "word " * 60)[:196], level) for level in range(1, 10)]
    blocks = [*headings, paragraph("a. " * 5000)]
    found = list(chunk(blocks, count, size, size // 2))
    assert counted < 20 * sum(len(each.text) for each in found)


@pytest.mark.parametrize("size", [100, 800])
def test_a_table_with_a_long_header_does_not_become_a_chunk_for_each_row(size: int) -> None:
    rows = 2000
    table = Block(BlockKind.TABLE, f"|{'x' * 1900}|\n|---|\n" + "|a|\n" * rows)
    assert len(list(chunk([table], ESTIMATE, size, size // 2))) < rows / 8
