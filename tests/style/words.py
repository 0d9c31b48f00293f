"""American spelling, and words that the project replaced by the usual ones: where a file has them nevertheless."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

__all__ = ["Entry", "entries", "faults", "files", "word_faults"]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
# Written by other projects or by programs, or with the names of an earlier release.
_EXCLUDED = (
    "*/versions/*",
    "LICENSE",
    "locks/*",
    "tests/cluster/go/*",
    "tests/contract/platform/previous_release.py",
    "tests/e2e/clients/pins/*",
    "tests/functions/recordings/*",
    "shared/llmariner/standalone/engine/tool_model_files/examples.jsonl",
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
    """A line of a word list: a pattern of words, what is written instead, and the globs of files that may have them."""

    pattern: re.Pattern[str]
    instead: str
    exempt: tuple[str, ...] = ()
    is_word: bool = True
    """The pattern is compared with each word and part of an identifier; else it is searched for in the text."""


def entries(text: str) -> list[Entry]:
    """Parse a word list, whose first lines describe its format."""
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            word, instead, *exempt = (cell.strip() for cell in line.split(" | "))
            pattern, is_word = _pattern(word)
            found.append(Entry(pattern, instead, tuple(" ".join(exempt).split()), is_word))
    return found


def _pattern(word: str) -> tuple[re.Pattern[str], bool]:
    """The pattern of an entry, and whether it is one of single words."""
    expression = word.replace("~", _VERB_ENDINGS).replace("*", "[a-z]*")
    if re.search("[A-Z_]", word):
        return re.compile(rf"(?<!\w){expression}(?!\w)"), False
    if "/" in word:
        # With dots only as a module of the package: `server.head` may be an attribute.
        dotted = re.sub(r"^(?!llmariner)", r"llmariner\\.", expression.replace("/", r"\."))
        return re.compile(rf"(?<![a-z])(?:{expression}|{dotted})(?![a-z_])", re.IGNORECASE), False
    if " " in word:
        expression = expression.replace(" ", r"[\s#_]+")
        return re.compile(rf"(?<![a-z]){expression}(?![a-z_-])", re.IGNORECASE), False
    return re.compile(expression, re.IGNORECASE), True


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
    single = [entry for entry in applicable if entry.is_word]
    offsets: defaultdict[str, list[int]] = defaultdict(list)
    for match in _WORD.finditer(text):
        offsets[match[0].lower()].append(match.start())
    for word, places in offsets.items():
        for entry in single:
            if entry.pattern.fullmatch(word):
                yield from (_fault(name, text, place, word, entry) for place in places)
    for entry in applicable:
        if not entry.is_word:
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
