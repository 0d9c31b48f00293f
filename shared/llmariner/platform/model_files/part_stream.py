"""Bytes that come in parts of any sizes, as a `ByteStream`."""

from __future__ import annotations

from collections.abc import Generator

__all__ = ["PartStream"]


class PartStream:
    """Reads what a generator yields, and raises what it raises. Its `close` closes the generator, wherever that is."""

    def __init__(self, parts: Generator[bytes, None, None]) -> None:
        self._parts = parts
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        """See `ByteStream`."""
        while not self._rest:
            following = next(self._parts, None)
            if following is None:
                return b""
            self._rest = following
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def close(self) -> None:
        """Release what the generator holds, such as a connection."""
        self._parts.close()
