"""Builds the cluster's programs from Go modules, once for each set of pins."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from llmariner.standalone.progress import Step

from .pins import IN_EVERY_CLUSTER, PROJECTS, Project
from .places import cache
from .wait import LabError, run

__all__ = ["build", "build_tag", "is_built", "module", "program"]

_BUILD_SECONDS = 3600


def program(project: str, name: str) -> Path:
    """A built program of a project."""
    return _built(PROJECTS[project]) / name


@functools.cache
def module(project: str, path: str | None = None) -> Path:
    """The sources of a project's main module, or of another that it requires, at the pinned version.

    Their config/ folders hold the manifests that go with the programs.
    """
    pinned = PROJECTS[project]
    found = run("go", "-C", pinned.folder, "list", "-m", "-f", "{{.Dir}}", path or pinned.module).strip()
    if not found:
        run("go", "-C", pinned.folder, "mod", "download", path or pinned.module, seconds=600)
        found = run("go", "-C", pinned.folder, "list", "-m", "-f", "{{.Dir}}", path or pinned.module).strip()
    return Path(found)


def build(*names: str) -> None:
    """Build what is not built yet of these projects, or of all that every cluster has.

    Seconds and bytes go to a file beside the programs.
    """
    if shutil.which("go") is None:
        raise LabError("The test cluster is built with Go 1.26 or newer, which is not on the PATH")
    for project in [PROJECTS[name] for name in names] or IN_EVERY_CLUSTER:
        folder = _built(project)
        folder.mkdir(parents=True, exist_ok=True)
        for name, package in project.commands.items():
            if not (folder / name).exists():
                _build_one(project, name, package, folder)


def is_built() -> bool:
    """Whether `build()` has nothing left to do."""
    return all((_built(project) / name).exists() for project in IN_EVERY_CLUSTER for name in project.commands)


def _build_one(project: Project, name: str, package: str, folder: Path) -> None:
    """Build one program, gently: others work on the machine too."""
    part, began = folder / f"{name}.part", time.monotonic()
    flags = f"-s -w {_version_flags(project)}"
    command = ["nice", "go", "-C", str(project.folder), "build", "-trimpath", "-ldflags", flags, "-o", str(part)]
    with Step(f"build {project.name}: {name}"), (folder / "build.log").open("ab") as log:
        done = subprocess.run(
            [*command, package],
            stdout=log,
            stderr=log,
            timeout=_BUILD_SECONDS,
            env={**os.environ, "CGO_ENABLED": "0"},
            check=False,
        )
    if done.returncode:
        raise LabError(f"go build {package} ended with {done.returncode}; see {folder / 'build.log'}")
    part.replace(folder / name)
    with (folder / "figures.txt").open("a") as figures:
        size = (folder / name).stat().st_size / 1_000_000
        figures.write(f"{project.name} {name}: {time.monotonic() - began:.0f} s, {size:.0f} MB\n")


def _version_flags(project: Project) -> str:
    """What the linker must write for the programs to tell their version."""
    if not project.versioned:
        return ""
    version = run("go", "-C", project.folder, "list", "-m", "-f", "{{.Version}}", project.module).strip()
    major, minor, _ = version.removeprefix("v").split(".", 2)
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(f"-X {package}.{name}={value}" for package in project.versioned for name, value in values.items())


def build_tag(project: Project) -> str:
    """Twelve hexadecimal digits that tell what a project's programs are made of."""
    pins = b"".join((project.folder / name).read_bytes() for name in ("go.mod", "go.sum"))
    made_of = hashlib.sha256(pins + repr((sorted(project.commands.items()), project.versioned)).encode()).hexdigest()
    return made_of[:12]


def _built(project: Project) -> Path:
    """Named by what the programs are made of, so that new pins make new programs."""
    return cache() / "built" / f"{project.name}-{build_tag(project)}"
