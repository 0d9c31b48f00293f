"""Archives of models: a folder of the files that a model has, and nothing of an archive that is anything else."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmariner.fine_tuning.model_archive import InvalidArchive, places_in_archive, write_model_folder
from llmariner.fine_tuning.training_program.model_tar import header_of, other_files, write_archive
from llmariner.platform.model_files.blobs import BlobStore

FILES = {"config.json": b"{}", "tokenizer_config.json": b"{ }", "model.safetensors": bytes(range(256)) * 9}


def archive(files: dict[str, bytes], form: int = tarfile.USTAR_FORMAT, **header: object) -> bytes:
    """A tar file. `header`: fields of the entry of each file."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for field, value in header.items():
                setattr(entry, field, value)
            tar.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def write(content: bytes, folder: Path, size: int = 700) -> None:
    """Write the folder of an archive that comes in parts of that size."""
    parts = (content[start : start + size] for start in range(0, len(content), size))
    write_model_folder(parts, folder, BlobStore(folder.parent / "blobs"), lambda: None)


def test_an_archive_that_a_job_writes_is_read_also_with_weights_of_more_than_8_gib(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    write_archive([tmp_path / name for name in FILES], tmp_path / "model.tar")
    write((tmp_path / "model.tar").read_bytes(), tmp_path / "a")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == FILES
    with tarfile.open(tmp_path / "model.tar") as archive:
        assert archive.getnames() == list(FILES)
    large = tmp_path / "model.safetensors"
    os.truncate(large, 9 << 30)  # which takes no room
    blocks = [header_of(large), *map(header_of, (tmp_path / "config.json", tmp_path / "tokenizer_config.json"))]
    starts = (0, 512 + (9 << 30), 1536 + (9 << 30), 2560 + (9 << 30))
    at = dict(zip(starts, [*blocks, bytes(512)], strict=True))
    assert places_in_archive(lambda start, _: at[start])[0] == ("model.safetensors", 512, 9 << 30)


@pytest.mark.parametrize("size", [1, 512, 700, 1 << 20])
def test_a_folder_has_the_files_of_the_archive(tmp_path: Path, size: int) -> None:
    write(archive(FILES), tmp_path / "a", size)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == FILES


def test_a_model_may_have_no_file_that_its_base_lacks(tmp_path: Path) -> None:
    """A tokenizer may be its `tokenizer.json` alone, with the template in a file of its own."""
    lean = {**FILES, "tokenizer.json": b"{}", "chat_template.jinja": b"x"}
    del lean["tokenizer_config.json"]
    write(archive(lean), tmp_path / "a")
    assert {path.name for path in (tmp_path / "a").iterdir()} == set(lean)


def test_a_trained_model_has_the_files_of_its_base_that_engines_read(tmp_path: Path) -> None:
    """Not those that describe other weights, for which an engine would look, and none that the platform would refuse."""
    base, kept = tmp_path / "base", ("config.json", "spiece.model", "tekken.json", "tokenizer.model.v3", "vocab.txt")
    other = ("model.safetensors.index.json", "adapter_config.json", "x.bin", "x.py", "a b.json", f"{'x' * 96}.json")
    disguised = ("x.model.v3.bin", "x.model.v3.safetensors", "x.model.v3.py")
    for name in (*kept, *other, *disguised, "model.safetensors"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(b"{}")
    os.truncate(base / "vocab.txt", (64 << 20) + 1)
    assert [path.name for path in other_files(base)] == list(kept[:-1])
    write_archive([*other_files(base), base / "model.safetensors"], tmp_path / "model.tar")
    write((tmp_path / "model.tar").read_bytes(), tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted((*kept[:-1], "model.safetensors"))


def test_an_archive_of_very_many_files_is_refused(tmp_path: Path) -> None:
    many = {f"{number}.json": b"" for number in range(1002)}
    with pytest.raises(InvalidArchive, match="more than 1,000 files"):
        write(archive(many), tmp_path / "a", 1 << 20)


def test_equal_contents_are_on_the_disk_once(tmp_path: Path) -> None:
    for name in "ab":
        write(archive(FILES), tmp_path / name)
    first, second = (tmp_path / name / "model.safetensors" for name in "ab")
    assert first.stat().st_ino == second.stat().st_ino
    for name in "ab":
        for path in (tmp_path / name).iterdir():
            path.unlink()
    assert BlobStore(tmp_path / "blobs").free_unused() == sum(map(len, FILES.values()))


WHOLE = archive(FILES)
REFUSED = {
    "nothing": b"",
    "a pickle": b"\x80\x04\x95" + b"x" * 2000,
    "an end in a header": WHOLE[:100],
    "an end in a file": WHOLE[: 512 + 512 + 512 + 512 + 512 + 100],
    "no end": WHOLE[: WHOLE.rindex(bytes(range(256))) + 256],
    "no weights": archive({name: FILES[name] for name in ("config.json", "tokenizer_config.json")}),
    "a path above": archive({**FILES, "../config.json": b""}),
    "an absolute path": archive({**FILES, "/etc/passwd": b""}),
    "a file in a folder": archive({"a/config.json": b"{}", **FILES}),
    "code": archive({**FILES, "modeling_x.py": b""}),
    "a pickle beside": archive({**FILES, "pytorch_model.bin": b""}),
    "a file twice": archive(FILES)[:-10240] + WHOLE if len(WHOLE) > 10240 else WHOLE.rstrip(b"\0") + WHOLE,
    "a link": archive({"config.json": b"", **FILES}, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": archive(FILES, type=tarfile.LNKTYPE, linkname="config.json"),
    "a device": archive(FILES, type=tarfile.BLKTYPE),
    "a folder": archive(FILES, type=tarfile.DIRTYPE),
    "a sparse file": archive(FILES, type=tarfile.GNUTYPE_SPARSE),
    "an extended header": archive({**FILES, "config.json": b"{}"}, tarfile.PAX_FORMAT, pax_headers={"comment": "x"}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_archive_of_a_model_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArchive):
        write(REFUSED[name], tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir() if path.name != "blobs"] == []
    assert BlobStore(tmp_path / "blobs").free_unused() <= sum(map(len, FILES.values()))


@pytest.mark.parametrize("size", [-1, 1 << 40])
def test_a_size_that_no_file_beside_the_weights_has_is_refused(tmp_path: Path, size: int) -> None:
    entry = tarfile.TarInfo("config.json")
    entry.size = size
    header = entry.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(InvalidArchive, match=f"has {size} bytes"):
        write(header + b"x" * 5000, tmp_path / "a")


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield WHOLE[:2000]
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        write_model_folder(parts(), tmp_path / "a", BlobStore(tmp_path / "blobs"), lambda: None)
    assert not (tmp_path / "a").exists()
    assert not list((tmp_path / "blobs").glob("*.part"))
    write(WHOLE, tmp_path / "a")
