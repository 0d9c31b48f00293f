"""The archive of a model as a tar file, without torch. `model_archive` is the other side."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["OTHER_FILES", "WEIGHTS", "header_of", "write_archive"]

WEIGHTS = "model.safetensors"
OTHER_FILES = (
    *("config.json", "generation_config.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt"),
)
"""What a model may have besides its weights, in the order of an archive."""

_COPIED_BYTES = 1 << 20


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
