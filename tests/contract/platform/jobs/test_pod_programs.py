"""Programs in the pods of jobs: the websocket's subprotocol, which pod is chosen, and the script that a pod runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from llmariner.errors import Conflict, RateLimited, Unavailable
from llmariner.platform.jobs import ExecOutput
from llmariner.platform.jobs.kubernetes.adapter import KubernetesJobs
from llmariner.platform.jobs.kubernetes.execution import command_line
from llmariner.platform.jobs.kubernetes.settings import ClusterJobSettings
from llmariner.platform.kube import Cluster
from llmariner.platform.kube.errors import Forbidden
from llmariner.settings import ClusterSettings

from .test_least_privilege import granted, used

NAMESPACE, PROTOCOL = "llmariner-jobs", Subprotocol("v5.channel.k8s.io")
Speak = Callable[[ServerConnection], None]
Body = dict[str, Any]


def pod(name: str, *, owner: str = "uid-1", running: bool = True, index: str = "0", created: int = 1) -> Body:
    """A pod of a job."""
    metadata: Body = {
        "name": name,
        "creationTimestamp": f"2026-01-0{created}T00:00:00Z",
        "ownerReferences": [{"uid": owner}],
    }
    metadata["labels"] = {"batch.kubernetes.io/job-completion-index": index}
    state = {"running": {}} if running else {"terminated": {"exitCode": 1}}
    return {"metadata": metadata, "status": {"containerStatuses": [{"name": "job", "state": state}]}}


class Server:
    """An API server with one Job, `bj-1`, whose programs do as `speak` says."""

    def __init__(self, folder: Path) -> None:
        self.pods = [pod("bj-1-a")]
        self.speak: Speak = lambda _: None
        self.refusal: tuple[HTTPStatus, Body] | None = None
        self.asked: list[str] = []
        self.answered: list[tuple[str, str, str]] = []
        self._server = serve(self._speak, "127.0.0.1", 0, process_request=self._respond, subprotocols=[PROTOCOL])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        port = self._server.socket.getsockname()[1]
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "test", "user": {"token": "secret"}}],
        }
        (folder / "kubeconfig").write_text(json.dumps(config))
        self.cluster = Cluster(ClusterSettings(folder / "kubeconfig"))
        self.jobs = KubernetesJobs(self.cluster, ClusterJobSettings(namespace=NAMESPACE), lambda _: ())

    def _speak(self, socket: ServerConnection) -> None:
        self.speak(socket)

    def close(self) -> None:
        self.cluster.close()
        self._server.shutdown()

    def _respond(self, socket: ServerConnection, request: Request) -> Response | None:
        path = urlsplit(request.path).path
        self.answered.append(("", "GET", path))
        assert request.headers["authorization"] == "Bearer secret"
        if path.endswith("/exec"):
            self.asked.append(request.path)
            return None if self.refusal is None else self._json(socket, *self.refusal)
        if path.endswith("/jobs/bj-1"):
            return self._json(socket, HTTPStatus.OK, {"metadata": {"name": "bj-1", "uid": "uid-1"}})
        if path.endswith("/pods"):
            return self._json(socket, HTTPStatus.OK, {"metadata": {"resourceVersion": "1"}, "items": self.pods})
        return self._json(socket, HTTPStatus.NOT_FOUND, {"kind": "Status", "code": 404})

    @staticmethod
    def _json(socket: ServerConnection, status: HTTPStatus, body: Body) -> Response:
        response = socket.respond(status, json.dumps(body))
        del response.headers["content-type"]
        response.headers["content-type"] = "application/json"
        return response


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with contextlib.closing(Server(tmp_path)) as made:
        yield made


def status(**fields: Any) -> bytes:
    """The message of the channel of the program's end."""
    return b"\3" + json.dumps(fields).encode()


def exit_status(code: str) -> bytes:
    causes = [{"reason": "ExitCode", "message": code}]
    return status(status="Failure", reason="NonZeroExitCode", details={"causes": causes})


def outputs(server: Server, *messages: bytes | str) -> tuple[list[ExecOutput], int | None]:
    """What a caller reads of a program of which the server tells this."""

    def speak(socket: ServerConnection) -> None:
        for each in messages:
            socket.send(each)
        socket.close()

    server.speak = speak
    with contextlib.closing(server.jobs.exec("bj-1", ["ls"])) as execution:
        found = list(iter(lambda: execution.read(30), None))
        return [each for each in found if each and each.data], execution.exit_code


def test_output_and_exit_code_come_by_their_channels(server: Server) -> None:
    out, err = ExecOutput("stdout", b"a"), ExecOutput("stderr", b"\xff")
    assert outputs(server, b"\1a", b"\2\xff", b"\1", status(status="Success")) == ([out, err], 0)
    assert outputs(server, b"\1a", exit_status("7")) == ([out], 7)


@pytest.mark.parametrize(
    "messages",
    [
        (),
        (b"",),
        ("text",),
        (b"\7unknown",),
        (b"\3no JSON",),
        (b"\3[]",),
        (exit_status("9" * 5000),),
        (exit_status("-1"),),
        (status(status="Failure", details={"causes": [7]}),),
        (status(status="Failure", details=7),),
    ],
)
def test_an_end_that_is_not_reported_has_no_exit_code(server: Server, messages: tuple[bytes | str, ...]) -> None:
    assert outputs(server, *messages) == ([], None)


def test_arguments_stay_apart_and_input_arrives_whole(server: Server) -> None:
    received: list[bytes] = []
    size = 900_000

    def speak(socket: ServerConnection) -> None:
        while sum(map(len, received)) - len(received) < size:
            received.append(bytes(socket.recv(30)))  # type: ignore[arg-type]
        socket.send(status(status="Success"))

    server.speak = speak
    argv = ["sh", "-c", "echo a&command=b $(HOME)", "", "ä\n"]
    with contextlib.closing(server.jobs.exec("bj-1", argv, b"x" * size)) as execution:
        while execution.read(30) is not None:
            pass
        assert execution.exit_code == 0
    assert {each[:1] for each in received} == {b"\0"}
    assert b"".join(each[1:] for each in received) == b"x" * size
    asked = urlsplit(server.asked[0])
    assert asked.path == f"/api/v1/namespaces/{NAMESPACE}/pods/bj-1-a/exec"
    query = parse_qs(asked.query, keep_blank_values=True)
    assert query["command"] == command_line(argv, b"x" * size)
    assert query["command"][4:] == [str(size), *argv]
    assert (query["container"], query["stdin"], query.get("tty")) == (["job"], ["true"], None)


def test_the_program_runs_in_the_newest_pod_of_this_very_job(server: Server) -> None:
    ended, other, second = pod("bj-1-b", running=False), pod("bj-1-c", owner="uid-0"), pod("bj-1-d", index="1")
    leaving = pod("bj-1-e", created=9)
    leaving["metadata"]["deletionTimestamp"] = "2026-01-09T00:00:00Z"
    server.pods = [pod("bj-1-a"), pod("bj-1-f", created=2), ended, other, second, leaving]
    outputs(server, status(status="Success"))
    assert "/pods/bj-1-f/exec" in server.asked[0]
    server.pods = [ended, other, second, leaving]
    for job_id in ("bj-1", "bj-2"):
        with pytest.raises(Conflict) as raised:
            server.jobs.exec(job_id, ["ls"])
        assert raised.value.code == "job_not_running"
    assert len(server.asked) == 1


def test_the_function_has_exactly_the_permissions_that_this_uses(server: Server) -> None:
    outputs(server, status(status="Success"))
    assert used(server.answered) | {("/pods/exec", "create")} == granted("jobs-exec")


def test_a_refusal_is_reported_and_takes_no_place(server: Server) -> None:
    for http_status, body, error in (
        (HTTPStatus.NOT_FOUND, {"message": 'pods "bj-1-a" not found'}, Conflict),
        (HTTPStatus.FORBIDDEN, {"message": "no"}, Forbidden),
        (HTTPStatus.INTERNAL_SERVER_ERROR, {"message": "the node is gone"}, Unavailable),
    ):
        server.refusal = (http_status, body)
        for _ in range(9):
            with pytest.raises(error):
                server.jobs.exec("bj-1", ["ls"])
    server.refusal = None
    assert outputs(server, status(status="Success")) == ([], 0)


def test_one_job_has_eight_programs_at_a_time(server: Server) -> None:
    left = threading.Event()
    server.speak = lambda socket: (left.wait(60), None)[1]
    begun = [server.jobs.exec("bj-1", ["ls"]) for _ in range(8)]
    with pytest.raises(RateLimited):
        server.jobs.exec("bj-1", ["ls"])
    left.set()
    for each in (begun[0], *begun):
        each.close()
    assert outputs(server, status(status="Success")) == ([], 0)


def here(argv: list[str], stdin: bytes, path: str, **options: Any) -> subprocess.Popen[bytes]:
    """What a pod would run, run here."""
    line = command_line(argv, stdin)
    return subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": path}, **options
    )


@pytest.fixture(params=["programs", "python alone"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A PATH as of an image with the usual programs, or with Python alone."""
    if request.param == "programs":
        return "/usr/bin:/bin"
    for name, target in (("python3", sys.executable), ("sh", "/bin/sh")):
        (tmp_path / name).symlink_to(target)
    return str(tmp_path)


INPUT = """\
import os, sys
print(len(sys.stdin.buffer.read()), sys.argv[1:])
print(os.getpgid(0) == os.getpid(), file=sys.stderr)
sys.exit(7)
"""
CHILD = """\
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
print(flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_a_program_gets_its_input_and_gives_its_exit_code(path: str) -> None:
    for stdin in (b"", b"\n" * 300_000):
        with here([sys.executable, "-c", INPUT, "$HOME", ""], stdin, path) as process:
            assert process.stdin is not None
            process.stdin.write(stdin)
            process.stdin.flush()  # it stays open, as that of a caller who listens
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read() == f"{len(stdin)} ['$HOME', '']\n".encode()
            assert process.stderr.read() == b"True\n"
            assert process.wait(60) == 7


def test_a_program_that_takes_no_input_ends(path: str) -> None:
    with here(["sh", "-c", "exit 3"], b"x" * 300_000, path) as process:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"x" * 300_000)
            process.stdin.flush()
        assert process.wait(60) == 3


def test_a_program_ends_with_its_caller_and_what_it_began_ends_with_it(path: str, tmp_path: Path) -> None:
    note = tmp_path / "pids"
    for seconds, code in ((600, 137), (0, 0)):
        with here([sys.executable, "-c", CHILD, str(note), str(seconds)], b"", path) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.read(1) == b"\n"
            if seconds:
                process.stdin.close()
            assert process.wait(60) == code
            assert process.stdout.read() == b"", "nobody holds its output"
        deadline = time.monotonic() + 60
        while any(_lives(int(each)) for each in note.read_text().split()):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_is_no_program_has_the_usual_exit_code(path: str) -> None:
    with here(["nosuchprogram"], b"", path) as process:
        assert process.stderr is not None
        assert process.stderr.read().endswith(b"nosuchprogram: not found\n")
        assert process.wait(60) == 127
