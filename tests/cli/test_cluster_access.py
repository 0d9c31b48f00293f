"""`llma cluster` without access: no server, something else than Kubernetes, or rejected credentials."""

from __future__ import annotations

import importlib
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from cli.conftest import Llma, Result
    from cli.fake_cluster import FakeCluster

_fake_cluster = importlib.import_module(".fake_cluster", __package__)

COMMANDS = ["check", "status"]
Answers = Callable[[str], str]


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A caller that has heard enough hangs up."""


def kubeconfig(place: Path, url: str, token: str = "") -> str:
    """A kubeconfig for a server at `url`, with one context, `here`."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "here"}}],
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "here", "user": {"token": token} if token else {}}],
    }
    place.write_text(yaml.safe_dump(config))
    return str(place)


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Callable[[bytes, int], str]]:
    """Starts a server that says the same to everything; gives a kubeconfig for it."""
    servers: list[ThreadingHTTPServer] = []

    def start(body: bytes, code: int = 200) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(code)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        servers.append(_Quiet(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.02,), daemon=True).start()
        return kubeconfig(tmp_path / "kubeconfig", f"http://127.0.0.1:{servers[-1].server_port}")

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


def refused(result: Result) -> str:
    """The error of a command that asked nothing: two lines, and nothing on stdout."""
    assert (result.code, result.out) == (2, "")
    error, next_step = result.err.splitlines()
    assert error.startswith("Error: ")
    assert next_step.startswith("Next: ")
    return result.err


@pytest.mark.parametrize("command", COMMANDS)
def test_no_server_responds(command: str, bare_llma: Llma, tmp_path: Path) -> None:
    began = time.monotonic()
    said = refused(bare_llma("cluster", command, "--kubeconfig", kubeconfig(tmp_path / "k", "http://127.0.0.1:9")))
    assert "The Kubernetes API does not answer" in said
    assert "kubectl cluster-info" in said
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"\xff\xfe\x00garbage",
        b"[1, 2]",
        b"null",
        b"",
        b'{"metadata": []}',
        b'{"hello": "world"}',
    ],
    ids=repr,
)
def test_a_server_that_is_not_kubernetes(
    command: str, body: bytes, answering: Callable[[bytes], str], bare_llma: Llma
) -> None:
    said = refused(bare_llma("cluster", command, "--kubeconfig", answering(body)))
    assert "Kubernetes API" in said
    assert ("it is no JSON that answered" in said) == (not body.startswith((b"[", b"{", b"null")))


@pytest.mark.parametrize(("code", "words"), [(500, "can't serve this now"), (503, "can't serve this now")])
def test_a_server_error(code: int, words: str, answering: Callable[[bytes, int], str], bare_llma: Llma) -> None:
    assert words in refused(bare_llma("cluster", "check", "--kubeconfig", answering(b"\xff no", code)))


@pytest.mark.parametrize("command", COMMANDS)
def test_rejected_credentials(command: str, bare_llma: Llma, tmp_path: Path) -> None:
    cluster: FakeCluster = _fake_cluster.FakeCluster()
    cluster.server.token = "the right one"
    with cluster.server as server:
        wrong = kubeconfig(tmp_path / "kubeconfig", server.url, token="the-wrong-one")
        said = refused(bare_llma("cluster", command, "--kubeconfig", wrong))
    assert "does not take these credentials: Unauthorized" in said
    assert "the-wrong-one" not in said


def test_a_missing_kubeconfig(bare_llma: Llma, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBECONFIG", "LLMARINER_KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    said = refused(bare_llma("cluster", "check"))
    assert f"there is no kubeconfig at {home}/.kube/config" in said
    assert "KUBECONFIG" in said


@pytest.mark.parametrize("text", ["", "a: [", "just words", "[]", "apiVersion: v1\nkind: Config\n", "\x00"], ids=repr)
def test_an_invalid_kubeconfig(text: str, bare_llma: Llma, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(text)
    assert "kubeconfig" in refused(bare_llma("cluster", "check", "--kubeconfig", str(tmp_path / "kubeconfig")))


def test_a_missing_context(bare_llma: Llma, tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:9")
    said = refused(bare_llma("cluster", "check", "--kubeconfig", file, "--context", "elsewhere"))
    assert "elsewhere" in said
    assert "kubectl config get-contexts" in said


def test_the_context_selects_among_several_files(
    bare_llma: Llma, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster: FakeCluster = _fake_cluster.FakeCluster()
    with cluster.server as server:
        one = kubeconfig(tmp_path / "one", "http://127.0.0.1:9")
        monkeypatch.setenv("KUBECONFIG", f"{one}:{server.kubeconfig(tmp_path / 'two')}:{tmp_path / 'none'}")
        assert bare_llma("cluster", "check", "--context", "test").code == 1
        assert bare_llma("cluster", "check", "--context", "here").code == 2


def test_a_client_only_installation_names_the_missing_extra(home: Path, program: list[str]) -> None:
    """Without Kubernetes' client; an import hook stands for that in a process of its own."""
    code = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("kubernetes", "urllib3"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from llmariner.cli.main import main
sys.exit(main(["cluster", "check", "--kubeconfig", sys.argv[1]]))
"""
    file = kubeconfig(home / "kubeconfig", "http://127.0.0.1:9")
    result = subprocess.run([*program[:2], code, file], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "pip install 'llmariner-knative[cli,cluster]'" in result.stderr


def test_help_does_not_import_the_client(home: Path, program: list[str]) -> None:
    code = """
import sys
from llmariner.cli.main import main
main(["cluster", "check", "--help"])
sys.exit(" ".join({"kubernetes", "urllib3", "rich", "yaml", "llmariner.diagnostics"} & set(sys.modules)))
"""
    result = subprocess.run([*program[:2], code], capture_output=True, text=True, check=False)
    assert result.stderr.split() == []


def test_the_named_extras_are_sufficient(home: Path, program: list[str]) -> None:
    """What a check of a whole cluster imports besides is in none of them."""
    cluster: FakeCluster = _fake_cluster.FakeCluster()
    cluster.populate()
    code = """
import sys
from llmariner.cli.main import main
for command in ("check", "status"):
    assert main(["cluster", command, "--kubeconfig", sys.argv[1]]) == 0
sys.exit(" ".join({"sqlalchemy", "fastapi", "pydantic_settings", "cloudevents", "httptools"} & set(sys.modules)))
"""
    with cluster.server as server:
        file = server.kubeconfig(home / "kubeconfig")
        result = subprocess.run([*program[:2], code, file], capture_output=True, text=True, check=False)
    assert result.stderr.split() == []
