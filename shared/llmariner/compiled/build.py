"""`python -m llmariner.compiled.build [--into FOLDER]`: translates the token path to machine code, within a minute.

It needs mypy (which contains mypyc), setuptools, a C compiler and Python's headers.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import llmariner
from llmariner.compiled import MANIFEST, MODULES, modules_digest

__all__ = ["BuildFailed", "build", "folder_of", "missing", "seal"]

_PACKAGE = Path(llmariner.__file__).parent
_COMPILERS = ("cc", "gcc", "clang")
# Symbols are of no use without a debugger, and the file is read at each start.
_SETUP = """from mypyc.build import mypycify
from setuptools import setup

setup(
    name="llmariner-compiled",
    ext_modules=mypycify(
        {files!r} + ["--config-file=mypy.ini"], opt_level="2", debug_level="0", group_name="token_path"
    ),
)
"""

# The stubs of httptools promise bytes where its functions return None; compiled code would check that.
_MYPY = """[mypy]
ignore_missing_imports = True
[mypy-httptools.*]
follow_imports = skip
"""


class BuildFailed(Exception):
    """The modules could not be compiled; the message has the compiler's last lines."""


def folder_of(cache: Path) -> Path:
    """The folder below `cache` for these sources and this interpreter, whether it exists or not.

    All sources of the package count: compiled code has checks for the types of the modules that it imports.
    """
    digest = hashlib.sha256(f"{sys.version} {sysconfig.get_platform()}".encode())
    for source in sorted(_PACKAGE.rglob("*.py")):
        digest.update(source.relative_to(_PACKAGE).as_posix().encode() + source.read_bytes())
    return cache / f"compiled-{digest.hexdigest()[:16]}"


def missing() -> str:
    """What this machine lacks to compile; empty if nothing."""
    if importlib.util.find_spec("mypyc") is None or importlib.util.find_spec("setuptools") is None:
        return "mypy and setuptools (the extra `compile`)"
    if not any(map(shutil.which, _COMPILERS)):
        return "a C compiler (gcc)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "the headers of Python (python3-dev)"
    return ""


def build(folder: Path) -> None:
    """Compile into `folder`, which appears complete or not at all. Raises BuildFailed."""
    if lacking := missing():
        raise BuildFailed(f"Compiling needs {lacking}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".compiling-") as name:
        work = Path(name)
        shutil.copytree(_PACKAGE, work / "llmariner", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        files = [f"{module.replace('.', '/')}.py" for module in MODULES]
        (work / "mypy.ini").write_text(_MYPY)
        (work / "setup.py").write_text(_SETUP.format(files=files))
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        env = {**os.environ, "LDFLAGS": "-Wl,-s", "MYPYPATH": "", "LLMARINER_COMPILED": ""}
        done = subprocess.run(
            command, cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise BuildFailed("\n".join(done.stdout.splitlines()[-20:]))
        result = work / "result"
        for file in [*work.glob("*.so"), *(work / "llmariner").rglob("*.so")]:
            target = result / file.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
        seal(result)
        try:
            result.rename(folder)
        except OSError:  # another process has built it meanwhile
            if not folder.is_dir():
                raise


def seal(folder: Path) -> None:
    """Write the manifest of a compiled folder, and have everything on disk before the folder gets its name."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [
        f"{modules_digest()} {len(files)}",
        *(f"{file.stat().st_size} {file.relative_to(folder).as_posix()}" for file in files),
    ]
    (folder / MANIFEST).write_text("\n".join(lines))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o644 if path.name == MANIFEST else 0o755)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def main() -> None:
    """Build; exits with status 1 and the reason if that fails."""
    parser = argparse.ArgumentParser(prog="python -m llmariner.compiled.build", description=__doc__)
    parser.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="must not exist")
    try:
        build(parser.parse_args().into)
    except BuildFailed as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
