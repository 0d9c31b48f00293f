"""MLflow's own server, in an environment of its own below the cache folder, which is named by a hash of its lock."""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from llmariner.settings import StandaloneSettings, environment

__all__ = ["MlflowServer", "running_mlflow"]

_LOCK = Path(__file__).parents[3] / "locks" / "mlflow.lock"
_UV = str(Path(sys.executable).with_name("uv"))
_START_SECONDS = 240
# The application that `mlflow server` starts under a server of several processes; a port of 0 is one that is free.
_PROGRAM = """
import sys
from mlflow.server import app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, app, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
"""


def installed_python() -> Path:
    """The interpreter of the environment, which is installed unless it is there. One process at a time installs it."""
    cache = StandaloneSettings.load(environment()).cache
    pins = _LOCK.read_bytes() + f"{sys.version_info[:2]}".encode()
    folder = cache / f"mlflow-{hashlib.sha256(pins).hexdigest()[:16]}"
    python, complete = folder / "bin" / "python", folder / "complete"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "mlflow-lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not complete.is_file():
            make = [_UV, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)]
            install = [_UV, "pip", "install", "--quiet", "--python", str(python), "--no-deps", "--require-hashes"]
            for command in (make, [*install, "-r", str(_LOCK)]):
                subprocess.run(command, check=True, timeout=_START_SECONDS)
            complete.write_text("")
    return python


class MlflowServer:
    """A running server. Its own API is asked, as its user interface asks it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, body: Any = None, **query: str) -> Any:
        """The JSON of an answer of the REST API: a POST if there is a body."""
        url = f"{self.url}/api/2.0/mlflow/{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(url, data, {"content-type": "application/json"}), timeout=60) as answer:
            return json.load(answer)

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """The runs of an experiment, with their parameters, tags and last metrics."""
        id_ = self.ask("experiments/get-by-name", experiment_name=experiment)["experiment"]["experiment_id"]
        found: list[dict[str, Any]] = self.ask("runs/search", {"experiment_ids": [id_]}).get("runs", [])
        return found

    def steps(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """Steps and values of a metric."""
        history = self.ask("metrics/get-history", run_id=run_id, metric_key=metric).get("metrics", [])
        return [(int(each.get("step", 0)), each["value"]) for each in history]

    def artifact(self, run: dict[str, Any], name: str) -> bytes:
        """The content of an artifact."""
        folder = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:")
        with urlopen(f"{self.url}/api/2.0/mlflow-artifacts/artifacts{folder}/{name}", timeout=60) as answer:
            content: bytes = answer.read()
        return content


@contextmanager
def running_mlflow(folder: Path) -> Iterator[MlflowServer]:
    """A server with a database and artifacts in a folder."""
    settings = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{folder / 'mlflow.db'}",
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(folder / "artifacts"),
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    }
    command = [str(installed_python()), "-c", _PROGRAM]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=settings, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            assert port.isdigit(), (folder / "log").read_text()[-3000:]
            server = MlflowServer(f"http://127.0.0.1:{port}")
            _wait(server)
            yield server
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _wait(server: MlflowServer) -> None:
    """Wait for the first answer, before which the server makes its database."""
    until = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.ask("experiments/search", {"max_results": 1})
        except (URLError, OSError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return
