"""The scripts print `failed` if a server does not comply; an empty response proves no capability."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from .environments import node_modules, python
from .outcomes import SCRIPTS, Outcomes, declared, run

INSTALLS = pytest.mark.engine  # with the tests that install clients anyway
SCRIPT_NAMES = [
    pytest.param("curl.sh"),
    pytest.param("openai_python.py", marks=INSTALLS),
    pytest.param("langchain_openai_client.py", marks=INSTALLS),
    pytest.param("openai_node.mjs", marks=INSTALLS),
    pytest.param("openai_python_storage.py", marks=INSTALLS),
    pytest.param("langchain_storage.py", marks=INSTALLS),
    pytest.param("llama_index_storage.py", marks=INSTALLS),
    pytest.param("openai_node_storage.mjs", marks=INSTALLS),
]
PYTHONS = {"openai": "openai-3", "langchain": "langchain-openai", "llama": "llama-index"}


class EmptyAnswers(BaseHTTPRequestHandler):
    """Answers everything with 200 and an empty object."""

    protocol_version = "HTTP/1.1"
    timeout = 20

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), EmptyAnswers) as listening:
        Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/v1"
        listening.shutdown()


def command(script: str, folder: Path) -> list[str | Path]:
    """How a user runs the script."""
    if script.endswith(".sh"):
        return ["bash", SCRIPTS / script]
    if script.endswith(".mjs"):
        (folder / "node_modules").symlink_to(node_modules())
        return ["node", Path(shutil.copy(SCRIPTS / script, folder))]
    return [python(PYTHONS[script.partition("_")[0]]), SCRIPTS / script]


@pytest.mark.parametrize("script", SCRIPT_NAMES)
def test_an_empty_response_proves_no_capability(script: str, server: str, tmp_path: Path) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "OPENAI_BASE_URL": server,
        "OPENAI_API_KEY": "sk-x",
        "OPENAI_LIMITED_KEY": "sk-x",
    }
    env |= {"OPENAI_RESTRICTED_KEY": "sk-x", "OPENAI_LIMITED_BASE_URL": server}
    outcomes = run(command(script, tmp_path), env)
    assert outcomes.names == declared(script)
    assert [name for name in outcomes.names if not outcomes[name].startswith("failed ")] == []


def test_an_unreached_capability_is_not_ok() -> None:
    outcomes = Outcomes("ok chat\nfailed stream: no text\nskipped tools: no key\nnoise\n", "Traceback: gone")
    assert outcomes.names == ["chat", "stream", "tools"]
    assert [outcomes[name] for name in outcomes.names] == ["ok", "failed stream: no text", "skipped tools: no key"]
    assert outcomes["embeddings"] == "the script ended before embeddings: Traceback: gone"
