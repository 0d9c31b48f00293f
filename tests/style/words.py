"""American spelling, and words that the project replaced by the usual ones: where a file has them nevertheless."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

__all__ = ["Entry", "entries", "faults", "files", "word_faults"]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
# Written by other projects or by programs, or versions of a schema, which stay as they were released.
_EXCLUDED = (
    "*/versions/*",
    "LICENSE",
    "locks/*",
    "tests/cluster/go/*",
    "tests/e2e/clients/pins/*",
    "tests/functions/recordings/*",
    "tests/identity/oidc-provider/package-lock.json",
    "tests/style/*",
)
_BINARY = (".xz", ".gz", ".png", ".ico")
_VERB_ENDINGS = "(e|es|ed|er|ers|ing|ation|ations)"
# Neither addresses nor the names of settings are prose.
_FIXED = re.compile(r"https?://[^\s)\]>\"'`]+|\bLLMARINER_[A-Z_]+")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


@dataclass(frozen=True)
class Entry:
    """A line of a word list: a word or phrase as a pattern, what is written instead, and the files that may have it."""

    pattern: re.Pattern[str]
    instead: str
    exempt: tuple[str, ...] = field(default=())
    is_phrase: bool = False
    """Of several words, or the path of a module."""


def entries(text: str) -> list[Entry]:
    """Parse a word list: `word | instead`, and `| globs` of exempt files where there are any; `#` begins a comment."""
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            word, instead, *exempt = (cell.strip() for cell in line.split(" | "))
            pattern = (
                word.replace("~", _VERB_ENDINGS).replace("*", "[a-z]*").replace(" ", r"[\s#_]+").replace("/", "[./]")
            )
            is_phrase = " " in word or "/" in word
            if is_phrase:
                pattern = rf"(?<![a-z]){pattern}(?![a-z_])"
            found.append(Entry(re.compile(pattern, re.IGNORECASE), instead, tuple(" ".join(exempt).split()), is_phrase))
    return found


def files() -> list[str]:
    """The checkout's own text files, relative to its root; those not committed yet included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [
        name
        for name in listed
        if not any(fnmatch(name, glob) for glob in _EXCLUDED) and not name.endswith(_BINARY) and (ROOT / name).is_file()
    ]


def word_faults(name: str, text: str, words: Iterable[Entry]) -> Iterator[str]:
    """`file:line: word: instead` for each word of the list in a text. A part of an identifier counts as a word."""
    text = _FIXED.sub(lambda match: " " * len(match[0]), text)
    applicable = [entry for entry in words if not any(fnmatch(name, glob) for glob in entry.exempt)]
    single = [entry for entry in applicable if not entry.is_phrase]
    offsets: defaultdict[str, list[int]] = defaultdict(list)
    for match in _WORD.finditer(text):
        offsets[match[0].lower()].append(match.start())
    for word, places in offsets.items():
        for entry in single:
            if entry.pattern.fullmatch(word):
                yield from (_fault(name, text, place, word, entry) for place in places)
    for entry in applicable:
        if entry.is_phrase:
            yield from (_fault(name, text, match.start(), match[0], entry) for match in entry.pattern.finditer(text))


def _fault(name: str, text: str, offset: int, word: str, entry: Entry) -> str:
    line = text.count("\n", 0, offset) + 1
    found = re.sub(r"[\s#]+", " ", word)
    return f"{name}:{line}: '{found}': write '{entry.instead}'"


def faults() -> list[str]:
    """What the checkout has of both lists."""
    words = [*entries((FOLDER / "american_spelling.txt").read_text())]
    words += entries((FOLDER / "retired_words.txt").read_text())
    return [
        fault
        for name in files()
        for text in (name, (ROOT / name).read_text())
        for fault in word_faults(name, text, words)
    ]
