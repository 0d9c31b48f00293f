"""Clients that fill vector stores and empty them again while processes are killed, and what the platform answered."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .killable_platform import Client

__all__ = ["Document", "Worker", "hits"]

_WORDS = [f"filler{number}" for number in range(400)]
_STRATEGY = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 0}}


@dataclass
class Document:
    """A file of a vector store with a word that no other file has."""

    id: str
    word: str
    words: int
    was_completed: bool = False
    version: int = 0
    """Its attribute, as the last answered change says; negative: a change was sent."""
    is_removed: bool = False
    """The request to remove it was sent; at the end of the work it was answered."""


def hits(answer: Any, word: str) -> list[str]:
    """The ids of the files of the passages with that word."""
    return [each["file_id"] for each in answer["data"] if word in each["content"][0]["text"]]


@dataclass
class Worker(threading.Thread):
    """Adds files to a store, removes some, changes attributes, and searches for what was reported as completed.

    `rebuilds`: it also asks for rebuilds of the store.
    """

    client: Client
    store_id: str
    number: int
    ended: threading.Event
    rebuilds: bool = False
    documents: list[Document] = field(default_factory=list)
    searches: int = 0
    lost: list[str] = field(default_factory=list)
    """What a search did not find though the file had been reported as completed."""
    error: BaseException | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self._random = random.Random(self.number)
        self._path = f"/v1/vector_stores/{self.store_id}"

    __hash__ = threading.Thread.__hash__

    def run(self) -> None:
        """Work until `ended` is set."""
        steps: list[Callable[[], None]] = [self.add, self.add, self._remove, self._look, self._search, self._search]
        steps += [self._mark, *([self._rebuild] if self.rebuilds else [])]
        try:
            while not self.ended.wait(0.05):
                self._random.choice(steps)()
        except BaseException as error:
            self.error = error

    def add(self) -> None:
        """Add a file of 1 to 25 chunks. A request without an answer is sent again."""
        word = f"word{self.number}x{len(self.documents)}x{self._random.randrange(10**6)}"
        text = [self._random.choice(_WORDS) for _ in range(self._random.randrange(60, 2500))]
        text[self._random.randrange(len(text))] = word
        status = 0
        answer: Any = None
        while status != 200:
            status, answer = self.client.upload(f"{word}.txt", " ".join(text))
            assert status in (0, 200, 503), (status, answer)
            if self.ended.wait(0 if status == 200 else 0.05):
                return
        body = {"file_id": answer["id"], "chunking_strategy": _STRATEGY}
        status, answer = self.client.until_answered("POST", f"{self._path}/files", body)
        # 409: the first request was done, and only its answer was lost.
        assert status in (200, 409), (status, answer)
        self.documents.append(Document(body["file_id"], word, len(text)))

    def _live(self) -> list[Document]:
        return [each for each in self.documents if not each.is_removed]

    def _remove(self) -> None:
        if len(self._live()) > 4:
            document = self._random.choice(self._live())
            document.is_removed = True
            at = self._random.choice([f"{self._path}/files", "/v1/files"])
            status, answer = self.client.until_answered("DELETE", f"{at}/{document.id}")
            assert status in (200, 404), (status, answer)

    def _mark(self) -> None:
        with contextlib.suppress(IndexError):
            document = self._random.choice(self._live())
            version, document.version = abs(document.version) + 1, -1
            body = {"attributes": {"version": version}}
            status, answer = self.client.until_answered("POST", f"{self._path}/files/{document.id}", body)
            assert status == 200, (status, answer)
            document.version = version

    def _rebuild(self) -> None:
        if self._random.random() < 0.05:
            self.client.call("POST", f"{self._path}/rebuild")

    def _look(self) -> None:
        """Note which files are reported as completed."""
        status, answer = self.client.call("GET", f"{self._path}/files?filter=completed&limit=100")
        if status == 200:
            completed = {each["id"] for each in answer["data"]}
            for document in self.documents:
                document.was_completed |= document.id in completed

    def _search(self) -> None:
        completed = [each for each in self._live() if each.was_completed]
        with contextlib.suppress(IndexError):
            document = self._random.choice(completed)
            status, answer = self.search(document.word)
            if status == 200:
                self.searches += 1
                if hits(answer, document.word) != [document.id]:
                    self.lost.append(f"{document} in {answer}")

    def search(self, word: str, **options: Any) -> tuple[int, Any]:
        """Status and answer of a search."""
        return self.client.call("POST", f"{self._path}/search", {"query": word, "max_num_results": 20, **options})
