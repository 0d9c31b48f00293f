"""The version of an object: replaced bytes are never taken for those of before."""

from __future__ import annotations

import pytest

from llmariner.platform.objects import ObjectStore, ObjectStoreUnavailable

from .contents import put


def version_of(store: ObjectStore) -> str:
    info = store.info("files/file_1")
    assert info is not None
    return info.version


def test_an_object_is_read_in_the_version_that_was_asked_for(store: ObjectStore) -> None:
    put(store, "files/file_1", b"0123456789")
    version = version_of(store)
    assert version == version_of(store)
    assert b"".join(store.read("files/file_1", 2, 3, version)) == b"234"


@pytest.mark.parametrize("data", [b"9876543210", b"", b"0123456789" * 9], ids=["same size", "shorter", "longer"])
def test_another_version_is_not_read(data: bytes, store: ObjectStore) -> None:
    put(store, "files/file_1", b"0123456789")
    version = version_of(store)
    put(store, "files/file_1", data)
    assert version_of(store) != version
    with pytest.raises(ObjectStoreUnavailable, match="replaced"):
        store.read("files/file_1", 2, 3, version)
