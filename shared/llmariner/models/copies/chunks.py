"""Ranges of a remote file in memory: some are fetched ahead in threads while the first is stored."""

from __future__ import annotations

import collections
import random
import threading
from collections.abc import Iterator

from llmariner.platform.model_files import ModelSource, RemoteFile, TransferInterrupted

__all__ = ["ChunkReader"]

_BLOCK_BYTES = 1 << 18
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 8.0


class _Chunk:
    """A range that a thread of its own fetches; it asks again after interruptions, until it is stopped."""

    def __init__(self, source: ModelSource, file: RemoteFile, start: int, end: int) -> None:
        self._source, self._file, self._start, self._end = source, file, start, end
        self._data = bytearray()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.over = threading.Event()
        self.error: Exception | None = None
        self.interruption = ""
        # A daemon thread: one that waits for a silent source delays neither a slice nor the end of the process.
        threading.Thread(target=self._run, name="model-chunk", daemon=True).start()

    def stop(self) -> bytes:
        """End the fetch without waiting for it; returns the bytes so far."""
        self._stopped.set()
        with self._lock:
            return bytes(self._data)

    def _run(self) -> None:
        try:
            self._fetch()
        except Exception as error:  # raised again by the thread that waits
            self.error = error
        self.over.set()

    def _fetch(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while (position := self._start + len(self._data)) < self._end and not self._stopped.is_set():
            before = position
            try:
                with self._source.open_range(self._file, position, self._end) as stream:
                    while position < self._end:
                        block = stream.read(min(_BLOCK_BYTES, self._end - position))
                        if not block:
                            raise TransferInterrupted("The source ended the transfer early.")
                        with self._lock:
                            if self._stopped.is_set():
                                return
                            self._data += block
                        position += len(block)
            except TransferInterrupted as error:
                self.interruption = str(error)
                pause = _FIRST_PAUSE_SECONDS if position > before else min(_LONGEST_PAUSE_SECONDS, pause * 2)
                # Random, so that the readers of many copies don't return to a source that recovers all at once.
                self._stopped.wait(pause * random.uniform(0.5, 1.0))


class ChunkReader:
    """Reads a file from `start` on in chunks of `chunk_bytes`, `ahead` of them at once. A context manager."""

    def __init__(self, source: ModelSource, file: RemoteFile, start: int, chunk_bytes: int, ahead: int) -> None:
        self._source, self._file = source, file
        self._ranges: Iterator[tuple[int, int]] = (
            (begin, min(file.size, begin + chunk_bytes)) for begin in range(start, file.size, chunk_bytes)
        )
        self._chunks: collections.deque[_Chunk] = collections.deque()
        self._ahead = ahead
        self.interruption = ""

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, *_: object) -> None:
        for chunk in self._chunks:
            chunk.stop()
        self._chunks.clear()

    def read(self, seconds: float) -> tuple[bytes, bool]:
        """The next chunk, and whether it is whole; after `seconds`, what is there of it. Empty bytes at the end.

        Raises what the source raised. After a chunk that is not whole there are no others.
        """
        while len(self._chunks) < self._ahead and (following := next(self._ranges, None)):
            self._chunks.append(_Chunk(self._source, self._file, *following))
        if not self._chunks:
            return b"", True
        chunk = self._chunks.popleft()
        whole = chunk.over.wait(max(0.0, seconds))
        data = chunk.stop()
        self.interruption = chunk.interruption
        if chunk.error is not None:
            raise chunk.error
        return data, whole
