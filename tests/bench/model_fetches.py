"""A model of 512 MB fetched from nginx as from an Ollama registry, beside curl, which checks no digest.

Two networks: one that is as fast as the machine, and one that gives each connection 60 MB/s, as far registries do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .children import StartError, free_port, running
from .results import Results
from .run import Bounds, say
from .target import Started, Target

FETCH, CURL, CURL_CHECKED = "fetch", "curl", "curl and sha256sum"
SIZE = 512_000_000
ROUNDS = 3
NETWORKS = {"fast": "", "slow": "limit_rate 60m;"}
_BLOCK = 1 << 20
_SECONDS = 300
_CONFIGURATION = """
daemon off;
user root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 64; }}
http {{
    access_log off;
    sendfile on;
    server {{ listen 127.0.0.1:{port}; root {folder}/files; {limit} }}
}}
"""
_PROGRAM = """
import sys
from pathlib import Path
from llmariner.platform.model_files.blobs import BlobStore
from llmariner.platform.model_files.fetch import fetch_files
from llmariner.platform.model_files.ollama import OllamaSource
folder = Path(sys.argv[2])
source = OllamaSource("m", endpoint=sys.argv[1])
fetch_files(source, source.list_files().files, folder / "m", BlobStore(folder / "blobs"), lambda progress: None)
"""


def measure_model_fetches(results: Results, folder: Path, bounds: Bounds) -> None:
    """Both networks in every round, with other content each time, to a folder that is new."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None or shutil.which("curl") is None:
        results.skipped["model fetches"] = "no nginx or no curl on this machine (Debian packages nginx-light, curl)"
        return
    for number in bounds.each():
        if number == ROUNDS:
            break
        say(f"round {number + 1} of {min(ROUNDS, bounds.rounds)}: model fetches")
        for name, limit in NETWORKS.items():
            site = folder / f"{name}-{number}"
            try:
                with running(_registry(program, site, limit), site) as registry:
                    _measure_once(results, name, registry, site)
            except (StartError, OSError, subprocess.SubprocessError) as reason:
                results.skipped[f"model fetches from a {name} network"] = str(reason)
            shutil.rmtree(site)


def _registry(program: str, folder: Path, limit: str) -> Target:
    """A registry with one model, as files."""
    place = folder / "files" / "v2" / "library" / "m"
    for name in ("blobs", "manifests"):
        (place / name).mkdir(parents=True)
    digest = hashlib.sha256()
    with (place / "blobs" / "new").open("wb") as file:
        for _ in range(SIZE // _BLOCK):
            block = os.urandom(_BLOCK)
            digest.update(block)
            file.write(block)
        size = file.tell()
    said = f"sha256:{digest.hexdigest()}"
    (place / "blobs" / "new").rename(place / "blobs" / said)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": said, "size": size}
    (place / "manifests" / "latest").write_text(json.dumps({"layers": [layer]}))
    port = free_port()
    (folder / "nginx.conf").write_text(_CONFIGURATION.format(folder=folder, port=port, limit=limit))
    return Target("registry", [program, "-p", str(folder), "-c", str(folder / "nginx.conf")], port)


def _measure_once(results: Results, network: str, registry: Started, folder: Path) -> None:
    (blob,) = (folder / "files/v2/library/m/blobs").iterdir()
    url = f"http://127.0.0.1:{registry.port}"
    copy = folder / "copy"
    curl = ["curl", "-sSf", "-o", str(copy), f"{url}/v2/library/m/blobs/{blob.name}"]
    check = f"{curl[0]} -sSf -o {copy} {curl[-1]} && sha256sum {copy}"
    commands = {
        FETCH: [sys.executable, "-c", _PROGRAM, url, str(folder / "models")],
        CURL: curl,
        CURL_CHECKED: ["sh", "-c", check],
    }
    for name, command in commands.items():
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=_SECONDS)
        results.add(f"model_fetch_{network}_bytes_per_s", name, blob.stat().st_size / (time.perf_counter() - begin))
        copy.unlink(missing_ok=True)
