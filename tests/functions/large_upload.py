"""The time, memory and disk that a file of 8 GiB in parts takes: `python -m tests.functions.large_upload [--gib 8]`.

The file is of zeros, which the folder of objects stores as holes. Prints one line of JSON; sizes in MiB, times in seconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from .installation import Installation
from .processes import CHECKOUT, boot_command, free_port, wait_until_listening

PART_BYTES = 64 * 1024 * 1024
_HEAD = b'--x\r\ncontent-disposition: form-data; name="data"; filename="upload"\r\n\r\n'
_TAIL = b"\r\n--x--\r\n"
_ZEROS = bytes(1024 * 1024)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gib", type=int, default=8)
    gib = parser.parse_args().gib
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"gib": gib, **measure(Path(folder), gib * 1024**3)}))


def measure(folder: Path, size: int) -> dict[str, float]:
    """Upload a file of that many bytes, two parts at a time."""
    return _measure(folder, "uploads", partial(upload, size=size))


def measure_form(folder: Path, size: int) -> dict[str, float]:
    """Upload a file of that many bytes by one form."""
    return _measure(folder, "files", partial(send_form, size=size))


def _measure(folder: Path, function: str, work: Callable[[int, str], dict[str, float]]) -> dict[str, float]:
    """What `work` returns, which gets the port of the function and a key, and the peaks."""
    installation = Installation(folder, "http://127.0.0.1:1")
    port = free_port()
    environment = {**installation.environment, "PORT": str(port), "HOST": "127.0.0.1"}
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            boot_command(CHECKOUT / "functions" / function), env=environment, cwd=CHECKOUT, stderr=log
        )
    try:
        wait_until_listening(child, port, folder / "log")
        with Disk(folder) as disk:
            times = work(port, installation.keys.admin)
        status = Path(f"/proc/{child.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+)", status)
        assert peak is not None
        return {**times, "peak_memory": int(peak[1]) // 1024, "peak_disk": disk.peak // 2**20}
    finally:
        child.terminate()
        child.wait(60)


def upload(port: int, key: str, size: int) -> dict[str, float]:
    """The whole way; the seconds of the parts, and of the completion."""
    new = {"bytes": size, "filename": "zeros", "mime_type": "application/octet-stream", "purpose": "user_data"}
    made = post(port, key, "/v1/uploads", json.dumps(new).encode(), "application/json")
    begin = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        sizes = [min(PART_BYTES, size - start) for start in range(0, size, PART_BYTES)]
        parts = list(threads.map(lambda part: send_part(port, key, made["id"], part), sizes))
    sent = time.monotonic()
    body = json.dumps({"part_ids": parts}).encode()
    done = post(port, key, f"/v1/uploads/{made['id']}/complete", body, "application/json")
    assert done["file"]["bytes"] == size
    return {"parts": round(sent - begin, 1), "completion": round(time.monotonic() - sent, 1)}


def send_form(port: int, key: str, size: int) -> dict[str, float]:
    """A file of zeros; the seconds that it takes."""
    purpose = b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    whole, rest = divmod(size, len(_ZEROS))
    body = (purpose, _HEAD.replace(b'"data"', b'"file"'), *[_ZEROS] * whole, _ZEROS[:rest], _TAIL)
    begin = time.monotonic()
    file = post(port, key, "/v1/files", body, "multipart/form-data; boundary=x")
    assert file["bytes"] == size
    return {"form": round(time.monotonic() - begin, 1)}


def send_part(port: int, key: str, upload_id: str, size: int) -> str:
    """Send a part of zeros; returns its id."""
    whole, rest = divmod(size, len(_ZEROS))
    body = (_HEAD, *[_ZEROS] * whole, _ZEROS[:rest], _TAIL)
    part: str = post(port, key, f"/v1/uploads/{upload_id}/parts", body, "multipart/form-data; boundary=x")["id"]
    return part


def post(port: int, key: str, path: str, body: Any, media_type: str) -> Any:
    """The JSON of a response. `body`: bytes, or a sequence of them."""
    length = len(body) if isinstance(body, bytes) else sum(map(len, body))
    headers = {"authorization": f"Bearer {key}", "content-type": media_type, "content-length": str(length)}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    assert response.status == 200, answer
    return answer


class Disk:
    """Watches the bytes that a folder occupies."""

    def __init__(self, folder: Path) -> None:
        self.peak = 0
        self._folder = folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Disk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.5):
            used = subprocess.run(["du", "-sB1", str(self._folder)], capture_output=True, text=True, check=False)
            self.peak = max(self.peak, int(used.stdout.split()[0] or 0))


if __name__ == "__main__":
    main()
