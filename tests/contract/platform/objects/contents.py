"""Write and read whole objects, for tests."""

from __future__ import annotations

from llmariner.platform.objects import ObjectInfo, ObjectStore

__all__ = ["get", "keys", "put"]


def put(store: ObjectStore, key: str, *parts: bytes) -> ObjectInfo:
    """Store an object of these parts."""
    with store.writer(key) as writer:
        for part in parts:
            writer.write(part)
        return writer.commit()


def get(store: ObjectStore, key: str, start: int = 0, size: int | None = None) -> bytes:
    """The bytes of an object."""
    return b"".join(store.read(key, start, size))


def keys(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    """The keys of a listing."""
    return [info.key for info in store.list(prefix, after)]
