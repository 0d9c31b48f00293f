"""Citations in an answer, each checked against the passage that it names.

A model cites what it likes, and a hostile document may ask it to cite another. So a marker such as [1] counts only where
the passage has the words of the statement: at least three in five of them, every number, and a clause that denies nothing
that the statement affirms. Where no marker counts, a statement is cited if a passage has it word for word. A quote is always
a piece of the passage, as it stands there. What is doubtful is not cited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from llmariner.file_search.passages import INVISIBLE, Passage

__all__ = ["Citations"]

_MARKER = re.compile(r"\[(\d{1,2}(?:\s*,\s*\d{1,2})*)\]")
_TRAILING_MARKERS = re.compile(r"(?:\s*\[[\d,\s]{1,20}\])+\s*$")
_SENTENCE_END = re.compile(rf"[.!?](?=\s)|[。！？\n]|{INVISIBLE.pattern}")
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|nor|neither|without|cannot|\w{1,20}n['’]t)\b", re.IGNORECASE
)
_CLAUSE_END = re.compile(r"[,;:](?=\s)|[，；：、]| [-–—] ")
_NUMBER = re.compile(r"[-+−]?\d+(?:[.,:/-]\d+)*%?")
_IDEOGRAPHS = "\u3005-\u3007\u3040-\u9fff\uac00-\ud7af\uf900-\ufaff"
# An ideograph counts as a word.
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]+")
_STOP_WORDS = frozenset(
    [
        "and",
        "are",
        "but",
        "can",
        "for",
        "from",
        "has",
        "have",
        "its",
        "not",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "they",
        "this",
        "was",
        "were",
        "will",
        "with",
        "you",
        "your",
    ]
)
_MIN_SUPPORT = 0.6
# Of the statement's words, in the one sentence that is quoted.
_MIN_QUOTED = 0.34
# Of a statement without a marker.
_MIN_REPEATED_WORDS = 5
# Of the same words in the passages.
_MAX_PLACES = 64
# Of the passages that are searched for repetitions: each takes about a quarter of a kilobyte meanwhile.
_MAX_PIECES = 50_000
_MAX_STATEMENT_LENGTH = 500
_MAX_QUOTE_LENGTH = 300
# Of a marker's numbers, each against its passage, in all texts of a response.
_MAX_CHECKS = 1000
_MAX_ANNOTATIONS = 100

_Annotations = dict[tuple[int, int], dict[str, Any]]


class Citations:
    """Finds the citations of the answers of one response. `passages`: in the order of their numbers, which begin at 1."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._cited = [_Cited(passage) for passage in passages]
        self._checks = 0

    def annotations(self, text: str) -> list[dict[str, Any]]:
        """OpenAI's annotations of an answer, with page and quote. `index`: where in the text the citation belongs."""
        found: _Annotations = {}
        for marker in _MARKER.finditer(text):
            named = dict.fromkeys(map(int, marker[1].split(",")))
            numbers = [number for number in named if 1 <= number <= len(self._cited)]
            if len(found) >= _MAX_ANNOTATIONS or self._checks + len(numbers) > _MAX_CHECKS:
                break
            self._checks += len(numbers)
            statement = _statement(text, marker.start()) if numbers else ""
            for number in numbers:
                if quote := self._cited[number - 1].quote(statement):
                    found[marker.start(), number] = self._annotation(number, marker.start(), quote)
        found = found or self._repetitions(text)
        return list(found.values())[:_MAX_ANNOTATIONS]

    def _annotation(self, number: int, index: int, quote: str) -> dict[str, Any]:
        passage = self._cited[number - 1].passage
        return {
            "type": "file_citation",
            "index": index,
            "file_id": passage.file_id,
            "filename": passage.filename,
            "page": passage.page,
            "quote": quote[:_MAX_QUOTE_LENGTH].strip(),
        }

    def _repetitions(self, text: str) -> _Annotations:
        """The citations of sentences that repeat a passage, or have a clause that does."""
        found: _Annotations = {}
        for sentence, end in _sentences(text):
            start, is_denial = end - len(sentence), _denies(sentence)
            for clause, length in (sentence, len(sentence)), *_clauses(sentence):
                number, quote = self._repeated(clause)
                if quote and is_denial == _denies(quote):
                    found[start + length, number] = self._annotation(number, start + length, quote)
                    break
            if len(found) >= _MAX_ANNOTATIONS:
                break
        return found

    def _repeated(self, clause: str) -> tuple[int, str]:
        """The number of the first passage that has all the words in this order, and its text of them; empty if none has."""
        clause = _MARKER.sub(" ", clause[:_MAX_STATEMENT_LENGTH])
        words = [word[0].casefold() for word in _WORD.finditer(clause)]
        if len(words) >= _MIN_REPEATED_WORDS:
            for index, at in self._pieces.get(tuple(words[:_MIN_REPEATED_WORDS]), ()):
                piece = self._cited[index].piece(at, words)
                if piece and _numbers(piece) == _numbers(clause):
                    return index + 1, piece
        return 0, ""

    @cached_property
    def _pieces(self) -> dict[tuple[str, ...], list[tuple[int, int]]]:
        """Where the passages have each sequence of words: the index of the passage, and of the first word in it."""
        found: dict[tuple[str, ...], list[tuple[int, int]]] = {}
        remaining = _MAX_PIECES
        for index, cited in enumerate(self._cited):
            words = cited.words
            count = min(remaining, max(0, len(words) - _MIN_REPEATED_WORDS + 1))
            remaining -= count
            for at in range(count):
                places = found.setdefault(tuple(words[at : at + _MIN_REPEATED_WORDS]), [])
                if len(places) < _MAX_PLACES:
                    places.append((index, at))
        return found


class _Cited:
    """A passage and its words."""

    def __init__(self, passage: Passage) -> None:
        self.passage = passage
        self._clauses_by_sentence: dict[str, list[tuple[str, frozenset[str]]]] = {}

    def quote(self, statement: str) -> str:
        """The sentence of the passage that supports a statement; empty if the passage does not."""
        meaning = _meaning(statement)
        if len(meaning & self._meaning) < max(1.0, _MIN_SUPPORT * len(meaning)):
            return ""
        sentence, words = max(self._sentences, key=lambda each: len(meaning & each[1]))
        if len(meaning & words) < _MIN_QUOTED * len(meaning) or not _numbers(statement) <= self._numbers:
            return ""
        # Of clauses that share as many words with the statement, the shortest.
        clause, _ = max(self._clauses(sentence), key=lambda each: (len(meaning & each[1]), -len(each[0])))
        return sentence if _denies(clause) == _denies(statement) else ""

    def piece(self, at: int, words: Sequence[str]) -> str:
        """The passage's text of these words if they follow there; empty where it has invisible characters."""
        if self.words[at : at + len(words)] != words:
            return ""
        piece = self.passage.text[self._spans[at][0] : self._spans[at + len(words) - 1][1]]
        return "" if INVISIBLE.search(piece) else piece

    @cached_property
    def words(self) -> list[str]:
        """The words of the passage in their order."""
        return [self.passage.text[start:end].casefold() for start, end in self._spans]

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        return [word.span() for word in _WORD.finditer(self.passage.text)]

    @cached_property
    def _meaning(self) -> frozenset[str]:
        return _meaning(self.passage.text)

    @cached_property
    def _sentences(self) -> list[tuple[str, frozenset[str]]]:
        return [(sentence, _meaning(sentence)) for sentence, _ in _sentences(self.passage.text)]

    @cached_property
    def _numbers(self) -> frozenset[str]:
        return _numbers(self.passage.text)

    def _clauses(self, sentence: str) -> list[tuple[str, frozenset[str]]]:
        """The clauses of a sentence of the passage, kept for the next statement."""
        found = self._clauses_by_sentence.get(sentence)
        if found is None:
            clauses = [clause for clause, _ in _clauses(sentence)] or [sentence]
            found = self._clauses_by_sentence[sentence] = [(clause, _meaning(clause)) for clause in clauses]
        return found


def _statement(text: str, end: int) -> str:
    """The sentence that ends at a marker, without markers."""
    before = text[max(0, end - _MAX_STATEMENT_LENGTH) : end]
    before = _TRAILING_MARKERS.sub("", before).rstrip().rstrip(".!?。！？")
    boundaries = [boundary.end() for boundary in _SENTENCE_END.finditer(before)]
    return _MARKER.sub("", before[boundaries[-1] :] if boundaries else before)


def _sentences(text: str) -> Iterator[tuple[str, int]]:
    """The sentences of a text, without invisible characters, and the index of their end; at least one."""
    start = 0
    for boundary in _SENTENCE_END.finditer(text):
        end = boundary.start() if INVISIBLE.match(boundary[0]) else boundary.end()
        if sentence := text[start:end].strip():
            yield sentence, end
        start = boundary.end()
    if not start or text[start:].strip():
        yield text[start:].strip(), len(text)


def _clauses(sentence: str) -> Iterator[tuple[str, int]]:
    """The clauses of a sentence, and where each ends in it."""
    start = 0
    for boundary in _CLAUSE_END.finditer(sentence):
        yield sentence[start : boundary.start()], boundary.start()
        start = boundary.end()
    if start:
        yield sentence[start:], len(sentence)


def _numbers(text: str) -> frozenset[str]:
    return frozenset(_NUMBER.findall(text))


def _meaning(text: str) -> frozenset[str]:
    """The words that carry meaning: of three letters or more, numbers, and pairs of ideographs."""
    found: set[str] = set()
    previous = ""
    for match in _WORD.finditer(text.casefold()):
        word = match[0]
        is_ideograph = word >= "\u2e80" and len(word) == 1
        if is_ideograph:
            found.add(previous + word)
        elif word[0].isdigit() or (len(word) >= 3 and word not in _STOP_WORDS):
            found.add(word)
        previous = word if is_ideograph else ""
    return frozenset(found)


def _denies(text: str) -> bool:
    return _NEGATION.search(text) is not None
