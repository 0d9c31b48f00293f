"""The archive of a model as a tar file, without torch. `model_archive` is the other side."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

from llmariner.model_file_names import is_for_engines

__all__ = [
    "MAX_OTHER_BYTES",
    "MAX_OTHER_FILES",
    "WEIGHTS",
    "header_of",
    "is_other_file",
    "other_files",
    "write_archive",
]

WEIGHTS = "model.safetensors"
MAX_OTHER_BYTES = 64 << 20
MAX_OTHER_FILES = 1000
"""Of what a model has besides its weights: the size of each, and how many there are."""

# A header of the plain form has room for 100 bytes.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]{0,99}", re.ASCII)
# They describe other weights than the one file that is written: engines would look for those.
_OF_OTHER_WEIGHTS = re.compile(r".*\.index\.json|adapter_config\.json")
_COPIED_BYTES = 1 << 20


def is_other_file(name: str) -> bool:
    """Whether a model's archive may have a file of that name besides the weights."""
    return bool(_NAME.fullmatch(name)) and is_for_engines(name) and not _OF_OTHER_WEIGHTS.fullmatch(name)


def other_files(base: Path) -> list[Path]:
    """What a model has besides its weights, by name: training changes none of them."""
    found = [path for path in sorted(base.iterdir()) if is_other_file(path.name) and path.is_file()]
    return [path for path in found if path.stat().st_size <= MAX_OTHER_BYTES][:MAX_OTHER_FILES]


def write_archive(files: Iterable[Path], target: Path) -> None:
    """Write files of any folders, in their order. The same contents make the same archive."""
    with target.open("wb") as archive:
        for path in files:
            archive.write(header_of(path))
            with path.open("rb") as content:
                shutil.copyfileobj(content, archive, _COPIED_BYTES)
            archive.write(bytes(-archive.tell() % tarfile.BLOCKSIZE))
        archive.write(bytes(2 * tarfile.BLOCKSIZE))


def header_of(path: Path) -> bytes:
    """The header of a file, without a time.

    The plain form (ustar) has room for sizes below 8 GiB. A larger one is written as GNU tar does.
    """
    entry = tarfile.TarInfo(path.name)
    entry.size = path.stat().st_size
    return entry.tobuf(tarfile.GNU_FORMAT)
