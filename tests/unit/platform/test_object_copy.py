"""The container that fetches the copy of a model for an engine, when it begins again in the folder of its pod."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.model_files.object_copy import download, manifest_key
from llmariner.platform.objects.folder import FolderObjects

COPY = f"mcopy_{'a' * 22}"
FILES = {"config.json": b"{}", "1_Pooling/config.json": b'{"a": 1}', "model.safetensors": b"weights"}


class Counted(FolderObjects):
    """A store that notes what is read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.keys: list[str] = []

    def read(self, key: str, *arguments: Any, **named: Any) -> Any:
        self.keys.append(key)
        return super().read(key, *arguments, **named)


@pytest.fixture
def store(tmp_path: Path) -> Counted:
    made, files = Counted(tmp_path / "objects"), []
    for number, (path, content) in enumerate(FILES.items()):
        digest = hashlib.sha256(content).hexdigest()
        files.append(
            {"path": path, "size": len(content), "sha256": digest, "chunks": [[0, len(content), f"chunk/{number}"]]}
        )
        put(made, f"chunk/{number}", content)
    put(made, manifest_key(COPY), json.dumps(files).encode())
    return made


def put(store: FolderObjects, key: str, content: bytes) -> None:
    with store.writer(key) as writer:
        writer.write(content)
        writer.commit()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_container_that_runs_again_in_its_folder_fetches_what_is_damaged_alone(
    store: Counted, tmp_path: Path
) -> None:
    """As those of a pod do after its node was started again."""
    folder = tmp_path / "mount"
    download(f"model-copy://{COPY}", folder, store)
    assert contents(folder) == FILES
    store.keys.clear()
    download(f"model-copy://{COPY}", folder, store)
    assert (contents(folder), store.keys) == (FILES, [manifest_key(COPY)])
    (folder / "1_Pooling/config.json").write_bytes(b'{"a": 2}')
    download(f"model-copy://{COPY}", folder, store)
    assert contents(folder) == FILES


@pytest.mark.parametrize("moves", [1, 2])
def test_a_container_that_ends_while_it_moves_files_continues(
    store: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    folder, left, replace = tmp_path / "mount", [None] * moves, os.replace

    def move(source: Path, target: Path) -> None:
        if folder in (target.parent, target.parent.parent):
            left.pop()
        replace(source, target)

    monkeypatch.setattr(os, "replace", move)
    with pytest.raises(IndexError):
        download(f"model-copy://{COPY}", folder, store)
    monkeypatch.undo()
    download(f"model-copy://{COPY}", folder, store)
    assert contents(folder) == FILES
