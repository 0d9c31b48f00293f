"""Containers of built images by runc, held to what the manifests ask of a pod: no root, no rights, only /tmp to write."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images.store import Store

__all__ = ["Container", "Running", "mounted"]

_USER = 65532
_SYSTEM = (
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]},
    {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rbind", "ro", "nosuid", "nodev"]},
    {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]},
)


@contextmanager
def mounted(store: Store, image: str) -> Iterator[Path]:
    """The root of an image's container, for as long as the block lasts."""
    name = store.run("from", "--pull-never", image).strip()
    try:
        yield Path(store.run("mount", name).strip())
    finally:
        store.run("rm", name)


@dataclass
class Container:
    """What runs in an image's root; `binds` are folders of this machine, read-only and each at its own path or another."""

    root: Path
    image: Mapping[str, Any]
    """The image's own configuration: Env, Cmd, WorkingDir, User."""
    environment: Mapping[str, str]
    binds: Mapping[Path, str] = field(default_factory=dict)

    def run(self, command: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """Run to its end, within a minute."""
        bundle = self._bundle(command, folder)
        return subprocess.run(self._runc(bundle), capture_output=True, text=True, timeout=60, check=False)

    @contextmanager
    def running(self, command: Sequence[str], folder: Path) -> Iterator[Running]:
        """A server for as long as the block lasts."""
        bundle = self._bundle(command, folder)
        log = folder / "output.log"
        with log.open("wb") as output:
            command = self._runc(bundle)
            command[2:2] = ["--pid-file", str(folder / "pid")]
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        running = Running(process, log, folder / "pid")
        try:
            yield running
        finally:
            subprocess.run(["runc", "kill", _name(bundle), "TERM"], check=False, capture_output=True)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                subprocess.run(["runc", "kill", _name(bundle), "KILL"], check=False, capture_output=True)
                process.wait(20)
            subprocess.run(["runc", "delete", "--force", _name(bundle)], check=False, capture_output=True)

    def _runc(self, bundle: Path) -> list[str]:
        return ["runc", "run", "--bundle", str(bundle), _name(bundle)]

    def _bundle(self, command: Sequence[str], folder: Path) -> Path:
        binds = [
            {"destination": place, "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
            for source, place in self.binds.items()
        ]
        user, _, group = self.image["User"].partition(":")
        config = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": int(user), "gid": int(group)},
                "args": list(command or self.image["Cmd"]),
                "env": [*self.image["Env"], *(f"{key}={value}" for key, value in self.environment.items())],
                "cwd": self.image["WorkingDir"],
                "noNewPrivileges": True,
                "capabilities": {},
            },
            "root": {"path": str(self.root), "readonly": True},
            "mounts": [*_SYSTEM, *binds],
            # The network is this machine's: everything listens on loopback.
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }
        (folder / "config.json").write_text(json.dumps(config))
        return folder


@dataclass
class Running:
    """A server in a container."""

    process: subprocess.Popen[bytes]
    log: Path
    pid_file: Path
    """The number of its first process, as this machine counts."""

    def words(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-3000:]

    def answer(self, url: str, body: Any = None, headers: Mapping[str, str] | None = None) -> tuple[int, Any]:
        """Status and JSON (or text) of one request."""
        data = None if body is None else json.dumps(body).encode()
        said = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(url, data, said)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text

    def wait(self, url: str, seconds: float, status: int = 200) -> float:
        """Seconds until it answers so. AssertionError with its last words when it does not."""
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            assert self.process.poll() is None, self.words()
            try:
                if self.answer(url)[0] == status:
                    return time.monotonic() - began
            except OSError:
                time.sleep(0.05)
            else:
                time.sleep(0.05)
        raise AssertionError(f"{url} is not {status} after {seconds:.0f} s: {self.words()}")


def _name(bundle: Path) -> str:
    return f"llmariner-{bundle.name}"
