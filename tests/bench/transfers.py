"""A file of 512 MiB to and from `functions/files` beside a bare server, and the memory that large files take."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .children import StartError, free_port, running
from .peers import bare_files
from .peers.installation import install
from .results import Results
from .run import Bounds, say
from .target import Site, Started, Target

FILES, BARE, DURABLE = "files", "bare ASGI", "durable bare ASGI"
SIZE = 512_000_000
LARGE_GIB = 4
# Rounds of half a gigabyte each way take their time.
ROUNDS = 3
CHECKOUT = Path(__file__).parents[2]
_BLOCK = 1024 * 1024
_SECONDS = 600
# Of the length that clients choose: a search for a short one is slower.
_BOUNDARY = "5f2d8a31c04b4e7f9d6ab1730c52e8d4"
_HEAD = (
    f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    f'--{_BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename="file.bin"\r\n\r\n'
).encode()
_TAIL = f"\r\n--{_BOUNDARY}--\r\n".encode()


def measure_transfers(results: Results, folder: Path, bounds: Bounds) -> None:
    """Forms and contents, then one upload of 4 GiB in parts."""
    measure_forms(results, folder, bounds)
    measure_large_upload(results)


def measure_forms(results: Results, folder: Path, bounds: Bounds) -> None:
    """All servers in every round, freshly started."""
    installation = install(Site(folder, free_port()))
    for number in bounds.each():
        if number == ROUNDS:
            break
        say(f"round {number + 1} of {min(ROUNDS, bounds.rounds)}: transfers")
        # Content that the project has already would not be written again; zeros would be stored as holes.
        block = os.urandom(_BLOCK)
        for name, target in (
            (BARE, bare(folder)),
            (DURABLE, bare(folder, "durable")),
            (FILES, installation.function(FILES, free_port())),
        ):
            try:
                with running(target, folder) as started:
                    measure_once(results, name, started, block)
            except (StartError, OSError) as reason:
                results.skipped[f"transfers of {name}"] = str(reason)


def measure_large_upload(results: Results) -> None:
    """The memory that an upload in parts takes at its peak."""
    say("an upload of 4 GiB in parts")
    command = [sys.executable, "-m", "tests.functions.large_upload", "--gib", str(LARGE_GIB)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode == 0:
        results.add("peak_mib", "uploads, 4 GiB in parts", json.loads(done.stdout)["peak_memory"])
    else:
        results.skipped["an upload of 4 GiB in parts"] = done.stderr[-200:]


def bare(folder: Path, *options: str) -> Target:
    port = free_port()
    return Target("bare-files", [sys.executable, bare_files.__file__, str(port), str(folder / "bare"), *options], port)


def measure_once(results: Results, name: str, server: Started, block: bytes) -> None:
    begin = time.perf_counter()
    answer = json.loads(_request(server, "POST", "/v1/files", block))
    results.add("upload_bytes_per_s", name, SIZE / (time.perf_counter() - begin))
    begin = time.perf_counter()
    _request(server, "GET", f"/v1/files/{answer.get('id', 'file')}/content")
    results.add("download_bytes_per_s", name, SIZE / (time.perf_counter() - begin))
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{server.pid}/status").read_text())
    assert peak is not None
    results.add("peak_mib", name, int(peak[1]) / 1024)


def _request(server: Started, method: str, path: str, block: bytes = b"") -> bytes:
    """The last bytes of a response, at most one block: the whole of a short one. `block`: what the sent file consists of."""
    length = str(len(_HEAD) + SIZE + len(_TAIL)) if block else "0"
    headers = {**server.headers, "content-type": f"multipart/form-data; boundary={_BOUNDARY}", "content-length": length}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=_SECONDS)
    try:
        connection.request(method, path, _form(block) if block else None, headers)
        response = connection.getresponse()
        last, received = b"", 0
        while part := response.read(_BLOCK):
            last, received = part, received + len(part)
    finally:
        connection.close()
    if response.status != 200 or (method == "GET" and received < SIZE):
        raise StartError(f"{server.name} answered {response.status} with {received} bytes: {last[:200]!r}")
    return last


def _form(block: bytes) -> Iterator[bytes]:
    whole, rest = divmod(SIZE, len(block))
    yield _HEAD
    for _ in range(whole):
        yield block
    yield block[:rest]
    yield _TAIL
