"""The images that a cluster start needs are exactly those that its build makes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .lab import images, program_builds


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """The programs that `build()` makes in an empty cache, with the compiler's part done by hand."""
    monkeypatch.setenv("LLMARINER_CACHE", str(tmp_path))
    made: set[Path] = set()

    def compiled(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        part = Path(command[command.index("-o") + 1])
        part.write_bytes(b"program")
        made.add(part.with_name(part.name.removesuffix(".part")))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(subprocess, "run", compiled)
    monkeypatch.setattr(program_builds, "_version_flags", lambda project: "")
    assert not program_builds.is_built()
    program_builds.build()
    assert program_builds.is_built()
    return made


def test_every_image_consists_of_built_programs(
    built: set[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "envoy_files", dict)
    needed = {file for image in images._own_images() for file in image.files.values() if tmp_path in file.parents}
    assert needed <= built, f"never built: {sorted(file.name for file in needed - built)}"
    assert len(needed) > 15
