"""An object larger than its process may be passes through each adapter, in both directions, in a process held to 256 MiB.

As a program, with the argument of `main`, it does the same with an object of any size.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llmariner.platform.objects import ObjectStore
from llmariner.platform.objects.folder import FolderObjects
from llmariner.platform.objects.s3 import S3Objects
from llmariner.settings import S3Settings, Secret

MIB = 1 << 20

LIMIT = 256 * MIB
SIZE = 2 * LIMIT
CHUNK = bytes(MIB)


def pass_through(store: ObjectStore, size: int) -> dict[str, Any]:
    """Write, concatenate and read an object of zeros; returns seconds and the largest resident memory in bytes."""
    began = time.monotonic()
    with store.writer("uploads/part_1") as writer:
        for _ in range(size // MIB):
            writer.write(CHUNK)
        assert writer.commit().size == size
    written = time.monotonic()
    assert store.concatenate("files/file_1", ["uploads/part_1"]).size == size
    concatenated = time.monotonic()
    assert sum(len(part) for part in store.read("files/file_1")) == size
    read = time.monotonic()
    store.delete(["uploads/part_1", "files/file_1"])
    return {
        "write": written - began,
        "concatenate": concatenated - written,
        "read": read - concatenated,
        "resident": peak_resident(),
    }


def peak_resident() -> int:
    """Bytes, of this program alone: `ru_maxrss` begins with what its parent held when it was forked."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main(description: dict[str, Any]) -> None:
    """What the limited process does: `{"size": bytes, "folder": path}` or `{"size": bytes, "s3": settings}`."""
    store: ObjectStore
    if "folder" in description:
        store = FolderObjects(Path(description["folder"]))
    else:
        secret = Secret(description["s3"].pop("secret_key"))
        store = S3Objects(S3Settings(**description["s3"], secret_key=secret))
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    print(json.dumps(pass_through(store, description["size"])))


def limited(description: dict[str, Any]) -> dict[str, Any]:
    """Run `main` in a process of its own."""
    command = [sys.executable, __file__, json.dumps(description)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_limit_is_felt() -> None:
    program = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT})); bytearray({LIMIT})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "MemoryError" in done.stderr


def test_a_large_object_passes_through_a_small_process_into_a_folder(tmp_path: Path) -> None:
    assert limited({"size": SIZE, "folder": str(tmp_path)})["resident"] < LIMIT


@pytest.mark.timeout(290)
def test_a_large_object_passes_through_a_small_process_into_s3(settings: S3Settings) -> None:
    plain = {name: getattr(settings, name) for name in ("bucket", "prefix", "endpoint", "access_key")}
    assert limited({"size": SIZE, "s3": {**plain, "secret_key": settings.secret_key.reveal()}})["resident"] < LIMIT


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
