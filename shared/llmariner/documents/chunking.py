"""Chunks of a document for retrieval, by OpenAI's strategies: at most `max_tokens` each, with an overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from llmariner.documents.blocks import Block, TextChunk
from llmariner.documents.passages import BLOCK_SEPARATOR, Boundary, Passage, Section, divide, split_passages
from llmariner.documents.tokens import TokenCounter

__all__ = ["CHUNK_BYTES", "chunk"]

CHUNK_BYTES = 60_000
"""The size of a chunk's text in UTF-8. The vector index takes 65,535 bytes; a long word may be one token."""

_FEWEST_TOKENS = 16
_CACHED = 64
# Of a chunk: what its headings and the header of its table take at most each, and the longest passage.
_SHARE = 4


def chunk(blocks: Iterable[Block], count_tokens: TokenCounter, max_tokens: int, overlap: int) -> Iterator[TextChunk]:
    """The chunks of a document, in order; the same for the same input.

    A chunk ends at the end of a block, else of a sentence (a row, a line), else of a word, else anywhere. It begins with
    the headings above it, on one line, and a chunk that begins inside a table with the table's header; then follows the
    text of the document from `start` to `end`. All of it together has at most `max_tokens` and CHUNK_BYTES. All
    text but white space is in some chunk. Consecutive chunks share at most `overlap` tokens; a heading after half of a
    chunk begins a new one that shares none. `start` and `end` are offsets in the texts of the blocks, joined by
    BLOCK_SEPARATOR. Raises ValueError for `max_tokens` below 16, and for an `overlap` outside 0 to half of it.
    """
    if max_tokens < _FEWEST_TOKENS:
        raise ValueError(f"max_tokens is {max_tokens}; at least {_FEWEST_TOKENS} are needed")
    if not 0 <= overlap <= max_tokens // 2:
        raise ValueError(f"overlap is {overlap}; it is from 0 to half of max_tokens ({max_tokens})")
    return _Chunker(blocks, count_tokens, max_tokens, overlap).chunks()


class _Chunker:
    """`_window` has the passages of the next chunk; the first `_fresh` of them are in the previous one too."""

    def __init__(self, blocks: Iterable[Block], count_tokens: TokenCounter, max_tokens: int, overlap: int) -> None:
        self._count_tokens = count_tokens
        self._max_tokens = max_tokens
        self._overlap = overlap
        self._passages = split_passages(blocks, count_tokens, max_tokens // _SHARE)
        self._next = next(self._passages, None)
        self._window: list[Passage] = []
        self._fresh = 0
        # Of the last texts before chunks and of the last headings: consecutive passages have the same.
        self._counted: dict[str, int] = {}
        self._shortened_headings: dict[tuple[str, ...], list[str]] = {}

    def chunks(self) -> Iterator[TextChunk]:
        index = 0
        while self._next is not None or len(self._window) > self._fresh:
            end, at_section = self._fill()
            found, end = self._fitting(end, index)
            if found is not None:
                yield found
                index += 1
            self._advance(end, at_section=at_section and end == len(self._window))

    def _fill(self) -> tuple[int, bool]:
        """Take passages until the chunk is full. Where it ends, and whether a section begins there."""
        self._drop_overlap()
        used = sum(passage.tokens for passage in self._window)
        size = sum(_bytes(passage) for passage in self._window)
        while (following := self._next) is not None:
            if self._window and following.begins_section and used >= self._max_tokens // 2:
                return len(self._window), True
            used += following.tokens
            size += _bytes(following)
            is_full = used + self._overhead(self._window[0]) > self._max_tokens if self._window else False
            if len(self._window) > self._fresh and (is_full or size > CHUNK_BYTES):
                return self._best_end(), False
            self._window.append(following)
            self._next = next(self._passages, None)
        return len(self._window), False

    def _drop_overlap(self) -> None:
        """Shorten the overlap until the passage after it fits."""
        following = self._window[self._fresh] if len(self._window) > self._fresh else self._next
        if following is None:
            return
        shared = sum(passage.tokens for passage in self._window[: self._fresh])
        # A long header of a table must leave room for new text, or the document would become a chunk for each row.
        most = min(self._max_tokens - following.tokens, self._max_tokens * 3 // 4)
        while self._fresh and shared + self._overhead(self._window[0]) > most:
            shared -= self._window.pop(0).tokens
            self._fresh -= 1

    def _overhead(self, first: Passage) -> int:
        """The tokens that a chunk has beside the document's text, if it begins with that passage."""
        before = _prefix(self._headings(first.sections, first.start), self._header(first))
        return self._count(before) if before else 0

    def _count(self, before: str) -> int:
        if before not in self._counted:
            if len(self._counted) >= _CACHED:
                self._counted.clear()
            self._counted[before] = self._count_tokens([before])[0]
        return self._counted[before]

    def _header(self, first: Passage) -> str:
        """The header of the table that the passage is a row of; none that would take more than half of a chunk."""
        return first.header if first.header and self._count(first.header) <= self._max_tokens // 2 else ""

    def _headings(self, sections: Sequence[Section], start: int) -> list[str]:
        """The headings before the chunk's own text, without the highest ones if they take more than their share."""
        headings = tuple(section.text for section in sections if section.start < start)
        if headings not in self._shortened_headings:
            if len(self._shortened_headings) >= _CACHED:
                self._shortened_headings.clear()
            self._shortened_headings[headings] = self._within_share(headings)
        return self._shortened_headings[headings]

    def _within_share(self, headings: Sequence[str]) -> list[str]:
        """The last of the headings that take their share together. Tokens are counted once per heading."""
        counts = self._count_tokens(list(headings))
        total, first = sum(counts), 0
        while first < len(headings) and total > self._max_tokens // _SHARE:
            total -= counts[first]
            first += 1
        while first < len(headings) and self._count(_prefix(headings[first:], "")) > self._max_tokens // _SHARE:
            first += 1
        return list(headings[first:])

    def _best_end(self) -> int:
        """The end of a chunk that is full, after at least one passage that no chunk has yet."""
        totals = list(accumulate(passage.tokens for passage in self._window))
        least_of = {Boundary.BLOCK: 3 / 4, Boundary.SENTENCE: 1 / 2, Boundary.WORD: 1 / 2}
        for boundary, share in least_of.items():
            for end in range(len(self._window), self._fresh, -1):
                if totals[end - 1] < share * self._max_tokens:
                    break
                if self._window[end - 1].boundary >= boundary:
                    return end
        return len(self._window)

    def _fitting(self, end: int, index: int) -> tuple[TextChunk | None, int]:
        """The chunk that ends there, or earlier if it is too long: tokens of a whole may be more than those of its parts."""
        with_header = with_headings = True
        while True:
            found = self._composed(self._window[:end], index, with_headings=with_headings, with_header=with_header)
            excess = (
                0 if found is None else max(found.tokens - self._max_tokens, len(found.text.encode()) - CHUNK_BYTES)
            )
            if excess <= 0:
                return found, end
            if end > self._fresh + 1:
                end = self._shortened(end, excess)
            elif self._fresh:
                self._window, end, self._fresh = self._window[self._fresh :], end - self._fresh, 0
            elif with_headings:
                with_headings = False
            elif with_header:
                with_header = False
            elif len(self._window[0].text) > 1:
                self._halve_first()
            else:
                return found, end

    def _shortened(self, end: int, excess: int) -> int:
        while excess > 0 and end > self._fresh + 1:
            end -= 1
            excess -= self._window[end].tokens
        return end

    def _halve_first(self) -> None:
        parts = divide(self._window[0], -(-len(self._window[0].text) // 2))
        counts = self._count_tokens([part.text for part in parts])
        self._window[:1] = [replace(part, tokens=max(1, count)) for part, count in zip(parts, counts, strict=True)]

    def _composed(
        self, passages: Sequence[Passage], index: int, *, with_headings: bool, with_header: bool
    ) -> TextChunk | None:
        """The chunk of some passages; None if they are white space."""
        raw = "".join(passage.text for passage in passages)
        body = raw.strip()
        if not body:
            return None
        start = passages[0].start + len(raw) - len(raw.lstrip())
        lead = next((passage for passage in passages if not passage.is_heading), passages[-1])
        headings = self._headings(lead.sections, passages[0].start) if with_headings else []
        text = _prefix(headings, self._header(passages[0]) if with_header else "") + body
        return TextChunk(
            index=index,
            text=text,
            start=start,
            end=start + len(body),
            tokens=self._count_tokens([text])[0],
            page=passages[0].page,
            headings=tuple(section.text for section in lead.sections),
        )

    def _advance(self, end: int, *, at_section: bool) -> None:
        """Keep what the next chunk shares with this one, which ended at `end`."""
        # The next chunk begins after the first text of this one, which white space may precede.
        first = next((at for at in range(end) if self._window[at].text.strip()), 0)
        begin = first + 1 if not at_section else end
        shared = size = 0
        for at in range(end - 1, first, -1):
            shared += self._window[at].tokens
            size += _bytes(self._window[at])
            if shared > self._overlap or size > CHUNK_BYTES // 2:
                begin = max(begin, at + 1)
                break
        whole = (at for at in range(begin, end) if self._window[at - 1].boundary >= Boundary.SENTENCE)
        begin = next(whole, begin)
        self._window = self._window[begin:]
        self._fresh = end - begin


def _prefix(headings: Sequence[str], header: str) -> str:
    return (" > ".join(headings) + BLOCK_SEPARATOR if headings else "") + header


def _bytes(passage: Passage) -> int:
    return len(passage.text.encode())
