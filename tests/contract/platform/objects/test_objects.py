"""What every adapter of the objects port promises."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product

import pytest

from llmariner.platform.objects import ObjectNotFound, ObjectStore

from .contents import get, keys, put

MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, MIB - 1, MIB, MIB + 1, 12 * MIB + 7])
def test_an_object_has_the_bytes_that_were_written(store: ObjectStore, size: int) -> None:
    data = random.Random(size).randbytes(size)
    before = time.time()
    written = put(store, "files/file_1", *(data[at : at + 700_001] for at in range(0, size, 700_001)))
    assert get(store, "files/file_1") == data
    assert written.key == "files/file_1"
    assert written.size == size
    assert before - 3 < written.modified_at < time.time() + 3
    found = store.info("files/file_1")
    assert found is not None
    assert (found.key, found.size) == ("files/file_1", size)
    assert found.modified_at == pytest.approx(written.modified_at, abs=2)


@pytest.mark.parametrize("zeros", [1, 4096, MIB, 3 * MIB + 5])
def test_zeros_are_kept_also_at_the_end(store: ObjectStore, zeros: int) -> None:
    put(store, "files/file_1", bytes(zeros), b"text", bytes(zeros))
    assert get(store, "files/file_1") == bytes(zeros) + b"text" + bytes(zeros)


def test_parts_that_are_read_have_at_most_a_mebibyte(store: ObjectStore) -> None:
    put(store, "files/file_1", random.Random(0).randbytes(3 * MIB + 1))
    sizes = [len(part) for part in store.read("files/file_1")]
    assert sum(sizes) == 3 * MIB + 1
    assert max(sizes) <= MIB


RANGES = [(0, None), (0, 0), (0, 1), (3, 4), (9, 1), (9, None), (5, 100), (10, 1), (10, None), (11, 5), (10**12, None)]


def test_a_range_has_the_bytes_of_the_range(store: ObjectStore) -> None:
    put(store, "files/file_1", b"0123456789")
    for start, size in RANGES:
        assert get(store, "files/file_1", start, size) == b"0123456789"[start:][:size], (start, size)


def test_a_range_of_an_empty_object_is_empty(store: ObjectStore) -> None:
    put(store, "files/file_1")
    assert get(store, "files/file_1", 0, 5) == get(store, "files/file_1", 3) == b""


@pytest.mark.parametrize(("start", "size"), [(-1, None), (0, -1)])
def test_a_negative_range_is_refused(store: ObjectStore, start: int, size: int | None) -> None:
    put(store, "files/file_1", b"text")
    with pytest.raises(ValueError, match="at least 0"):
        store.read("files/file_1", start, size)


def test_a_missing_object_is_reported_before_the_first_byte(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound):
        store.read("files/file_1")
    assert store.info("files/file_1") is None


def test_a_folder_of_keys_is_no_object(store: ObjectStore) -> None:
    put(store, "files/file_1", b"text")
    assert store.info("files") is None
    with pytest.raises(ObjectNotFound):
        store.read("files")
    store.delete(["files"])
    assert get(store, "files/file_1") == b"text"


INVALID = ["", "/etc/passwd", "../x", "files/../../x", "files//x", "files/", ".unfinished/x", "files/.x", "files/a b"]
INVALID += ["files/x\n", "files/x\0", "files/\u00e9", "files\\x", "f" * 201, "/".join(["f" * 100] * 6), "files/-x"]


def test_only_names_of_the_platform_are_keys(store: ObjectStore) -> None:
    put(store, "files/file_1", b"text")
    for key in INVALID:
        for operation in (
            store.writer,
            store.read,
            store.info,
            lambda key: store.delete([key]),
            lambda key: store.concatenate("files/file_2", [key]),
            lambda key: store.concatenate(key, ["files/file_1"]),
        ):
            with pytest.raises(ValueError, match="not a key"):
                operation(key)
    assert keys(store) == ["files/file_1"]


def test_a_listing_stays_inside_the_store(store: ObjectStore) -> None:
    for prefix in ("../", "/etc/", "files/../", "a//b"):
        with pytest.raises(ValueError, match="not a key"):
            store.list(prefix)
        with pytest.raises(ValueError, match="not a key"):
            store.discard_unfinished(prefix, 0)


@pytest.mark.parametrize("size", [10, 12 * MIB])
def test_what_is_not_committed_is_never_visible(store: ObjectStore, size: int) -> None:
    put(store, "files/file_1", b"old")
    with store.writer("files/file_1") as writer, store.writer("files/file_2") as other:
        writer.write(random.Random(1).randbytes(size))
        other.write(random.Random(2).randbytes(size))
        assert get(store, "files/file_1") == b"old"
        assert store.info("files/file_2") is None
        assert keys(store) == ["files/file_1"]
    assert get(store, "files/file_1") == b"old"
    assert keys(store) == ["files/file_1"]


def test_an_error_while_writing_discards_the_object(store: ObjectStore) -> None:
    with pytest.raises(TypeError):
        put(store, "files/file_1", b"text", None)  # type: ignore[arg-type]
    assert keys(store) == []


def test_a_commit_replaces_the_object_whole(store: ObjectStore) -> None:
    put(store, "files/file_1", b"a longer old text")
    put(store, "files/file_1", b"new")
    assert get(store, "files/file_1") == b"new"


def test_a_writer_ends_with_its_commit(store: ObjectStore) -> None:
    with store.writer("files/file_1") as writer:
        writer.write(b"text")
        writer.commit()
        with pytest.raises(ValueError, match="not open"):
            writer.write(b"more")
        with pytest.raises(ValueError, match="not open"):
            writer.commit()
    with pytest.raises(ValueError, match="not open"):
        store.writer("files/file_2").write(b"text")
    assert get(store, "files/file_1") == b"text"


@pytest.mark.parametrize("change", ["replace", "delete"])
def test_a_reader_reads_the_object_that_it_opened(store: ObjectStore, change: str) -> None:
    data = random.Random(3).randbytes(MIB + MIB // 2)
    put(store, "files/file_1", data)
    reader = store.read("files/file_1")
    first = next(reader)
    if change == "replace":
        put(store, "files/file_1", b"new")
    else:
        store.delete(["files/file_1"])
    assert first + b"".join(reader) == data


def test_a_reader_may_be_closed_early_and_again(store: ObjectStore) -> None:
    put(store, "files/file_1", random.Random(4).randbytes(3 * MIB))
    reader = store.read("files/file_1")
    next(reader)
    reader.close()
    reader.close()
    assert list(reader) == []


NAMES = [
    "a-b",
    "a.b",
    "a/b",
    "a/b-c",
    "a/b.c",
    "a/c/d",
    "a/c0",
    "a0",
    "a_b",
    "b/1",
    "b/10",
    "b/2",
    "files",
    "files-2/x",
]


def test_keys_are_listed_in_ascending_order(store: ObjectStore) -> None:
    for name in random.Random(5).sample(NAMES, len(NAMES)):
        put(store, name, name.encode())
    assert keys(store) == sorted(NAMES)
    assert [info.size for info in store.list("")] == [len(name) for name in sorted(NAMES)]


def test_a_listing_has_the_keys_of_its_prefix_that_follow(store: ObjectStore) -> None:
    names = ["a/b", "a/b-c", "a/c/d", "a/c0", "a0", "b/1", "b/10", "b/2", "files"]
    for name in names:
        put(store, name, b"x")
    prefixes = ["", "a", "a/", "a/b", "a/c", "a/c/", "b/1", "files", "z", "a/x/y"]
    for prefix, after in product(prefixes, ["", "a", "a/", "a/b", "a/c", "a/c/d", "a/zz", "b", "b/1", "zzz"]):
        expected = [name for name in names if name.startswith(prefix) and name > after]
        assert keys(store, prefix, after) == expected, (prefix, after)


def test_deleting_is_idempotent(store: ObjectStore) -> None:
    for number in range(5):
        put(store, f"files/file_{number}", b"x")
    store.delete([])
    store.delete(f"files/file_{number}" for number in (0, 2, 9, 2))
    store.delete(["files/file_2", "other/file_1"])
    assert keys(store) == ["files/file_1", "files/file_3", "files/file_4"]


def test_a_key_may_be_written_after_its_folder_was_emptied(store: ObjectStore) -> None:
    put(store, "uploads/a/part_1", b"1")
    store.delete(["uploads/a/part_1"])
    put(store, "uploads/a/part_2", b"2")
    assert keys(store, "uploads/") == ["uploads/a/part_2"]


@pytest.mark.parametrize("sizes", [[], [0], [3], [0, 3, 0], [1, 2, 3], [6 * MIB, 5 * MIB, 1], [6 * MIB, 1, 6 * MIB]])
def test_objects_are_concatenated_in_their_order(store: ObjectStore, sizes: list[int]) -> None:
    parts = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    names = [f"uploads/part_{number}" for number in range(len(parts))]
    for name, data in zip(names, parts, strict=True):
        put(store, name, data)
    written = store.concatenate("files/file_1", names)
    assert (written.key, written.size) == ("files/file_1", sum(sizes))
    assert get(store, "files/file_1") == b"".join(parts)
    assert keys(store, "uploads/") == names


def test_the_same_object_may_be_concatenated_twice(store: ObjectStore) -> None:
    put(store, "uploads/part_1", b"ab")
    store.concatenate("files/file_1", ["uploads/part_1", "uploads/part_1"])
    assert get(store, "files/file_1") == b"abab"


def test_concatenating_a_missing_object_leaves_nothing(store: ObjectStore) -> None:
    put(store, "uploads/part_1", b"x")
    with pytest.raises(ObjectNotFound):
        store.concatenate("files/file_1", ["uploads/part_1", "uploads/part_2"])
    assert keys(store) == ["uploads/part_1"]


def test_many_writers_of_one_key_leave_one_whole_object(store: ObjectStore) -> None:
    def write(number: int) -> None:
        put(store, "files/file_1", *[bytes([number]) * 100_000] * 10)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(1, 9)))
    data = get(store, "files/file_1")
    assert len(data) == 1_000_000
    assert len(set(data)) == 1


def test_readers_never_see_a_mixture(store: ObjectStore) -> None:
    def replace() -> None:
        for number in range(30):
            put(store, "files/file_1", bytes([number]) * 1_500_000)

    put(store, "files/file_1", b"")
    with ThreadPoolExecutor(1) as pool:
        replaced = pool.submit(replace)
        seen = []
        while not replaced.done():
            data = get(store, "files/file_1")
            assert len(set(data)) <= 1
            assert len(data) in (0, 1_500_000)
            seen.append(data[0] if data else -1)
        replaced.result()
    assert all(earlier <= later for earlier, later in pairwise(seen))


def test_writers_survive_that_their_folder_is_removed(store: ObjectStore) -> None:
    def write(number: int) -> None:
        for step in range(20):
            key = f"uploads/shared/part_{number}_{step}"
            put(store, key, b"x")
            store.delete([key])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert keys(store) == []


def test_an_unfinished_object_is_discarded_only_when_nobody_writes_it(store: ObjectStore) -> None:
    with store.writer("files/file_1") as writer:
        writer.write(random.Random(6).randbytes(12 * MIB))
        assert store.discard_unfinished("files/", time.time() - 60) == 0
        writer.write(b"end")
        writer.commit()
    info = store.info("files/file_1")
    assert info is not None
    assert info.size == 12 * MIB + 3
