"""Base images built on this machine without a container registry: Debian's Python and its dependencies only.

They have no shell and no package manager. apt fetches, verifies and unpacks the packages; no maintainer script runs.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from images.store import PrerequisiteMissing, Store

__all__ = ["BUILDER", "ENGINE", "NOTEBOOK", "RUNTIME", "BaseImage", "build_base"]

_SUITE = "bookworm"
# `libstdc++6`: wheels for Linux leave it to the system; those of gRPC, numpy and Pillow need it.
_PYTHON_PACKAGES = (
    *("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6"),
    *("ca-certificates", "netbase", "tzdata"),
)
# Files of dependencies that an image does not need: documentation, translations, the package manager.
_UNUSED = (
    "usr/share/doc/*/[!c]*",
    "usr/share/doc/*/c[!o]*",
    "usr/share/man",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/perl5",
    "usr/share/debconf",
    "usr/share/gcc",
    "usr/share/gdb",
    "usr/lib/x86_64-linux-gnu/perl-base",
    "usr/bin/dpkg*",
    "usr/bin/debconf*",
    "usr/bin/update-alternatives",
    "usr/bin/openssl",
    "usr/bin/c_rehash",
    "usr/sbin/update-ca-certificates",
    "var/lib/dpkg",
    "etc/apt",
    "etc/dpkg",
    "etc/cron.daily",
    "etc/logrotate.d",
)
_ACCOUNTS = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/tmp:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
_CONTAINERFILE = "FROM scratch\nCOPY root/ /\nENV PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 {environment}\n"


@dataclass(frozen=True)
class BaseImage:
    """A base image of Debian packages; `environment` in the syntax of a Containerfile's ENV."""

    name: str
    packages: tuple[str, ...]
    environment: str = ""

    @property
    def tag(self) -> str:
        """The image name with a tag that is a hash of the recipe."""
        recipe = repr((self, _SUITE, _UNUSED, _ACCOUNTS, _CONTAINERFILE, Path(__file__).read_text()))
        return f"localhost/{self.name}:{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


RUNTIME = BaseImage("python-base", _PYTHON_PACKAGES)
BUILDER = BaseImage(
    "python-builder",
    (*_PYTHON_PACKAGES, "python3-pip-whl", "gcc", "libc6-dev", "libpython3.11-dev"),
    "PYTHONPATH=/usr/share/python-wheels/pip.whl",
)
# Libraries and programs that vLLM's build for CPUs needs at run time beside its own wheels.
ENGINE = BaseImage("engine-base", (*_PYTHON_PACKAGES, "libgomp1", "libnuma1", "dash", "util-linux"))

# What people use in a terminal of a notebook.
NOTEBOOK = BaseImage(
    "notebook-base",
    (
        *(*_PYTHON_PACKAGES, "bash", "dash", "coreutils", "findutils", "grep", "sed", "tar", "gzip", "unzip", "procps"),
        *("less", "nano-tiny", "git", "curl"),
    ),
)


def build_base(base: BaseImage, store: Store) -> None:
    """Build a base image unless the store has it. Raises PrerequisiteMissing without mmdebstrap."""
    if store.has(base.tag):
        return
    if shutil.which("mmdebstrap") is None:
        raise PrerequisiteMissing(
            "mmdebstrap is not installed: apt-get install mmdebstrap (or name a base of your own: --base)"
        )
    work = store.folder / "tmp" / base.name
    shutil.rmtree(work, ignore_errors=True)
    root = work / "root"
    work.mkdir(parents=True)
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(base.packages)}"]
    subprocess.run([*command, _SUITE, str(root)], check=True)
    _finish(root)
    (work / "Containerfile").write_text(_CONTAINERFILE.format(environment=base.environment))
    store.build(base.tag, work / "Containerfile", work, {})
    shutil.rmtree(work)


def _finish(root: Path) -> None:
    """Do what a function needs of the maintainer scripts: accounts, certificates, links to Python, bytecode."""
    for pattern in _UNUSED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, text in _ACCOUNTS.items():
        (root / name).write_text(text)
    authorities = root / "etc/ssl/certs/ca-certificates.crt"
    authorities.parent.mkdir(parents=True, exist_ok=True)
    found = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    authorities.write_text("".join(path.read_text() for path in found))
    for wheel in root.glob("usr/share/python-wheels/pip-*.whl"):
        wheel.with_name("pip.whl").symlink_to(wheel.name)
    for name in ("python", "python3"):
        link = root / "usr/bin" / name
        link.unlink(missing_ok=True)
        link.symlink_to("python3.11")
    compiling = ["-m", "compileall", "-q", "-j2", "--invalidation-mode", "unchecked-hash", "/usr/lib/python3.11"]
    subprocess.run(["chroot", str(root), "/usr/bin/python3.11", *compiling], check=True)
