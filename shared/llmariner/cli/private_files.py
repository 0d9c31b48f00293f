"""Files with a user's secrets: mode 0600, replaced atomically."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

__all__ = ["read", "replace"]


def read(path: Path) -> str:
    """The text; warns where other users may read it. Raises OSError, UnicodeDecodeError."""
    with path.open(encoding="utf-8") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            click.echo(f"Warning: {path} is open to other users; run `chmod 600 {path}`.", err=True)
        return file.read()


def replace(path: Path, content: Mapping[str, Any], *, sort_keys: bool = False) -> None:
    """Replace the file atomically by YAML with mode 0600. Raises OSError, which leaves the file unchanged."""
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yaml.safe_dump(dict(content), file, sort_keys=sort_keys, allow_unicode=True)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
