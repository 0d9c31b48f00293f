"""/v1/fine_tuning/workers/{id}/uploads: results in parts, as the process of a job sends them with its token."""

from __future__ import annotations

import hashlib
import io
import json
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from sqlalchemy import select, update

from llmariner.context import Context
from llmariner.errors import Conflict
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.files.tables import uploads as upload_rows
from llmariner.fine_tuning.jobs import load_job
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.fine_tuning.training_program import platform as module
from llmariner.fine_tuning.training_program.platform import Platform, Refused, Stopped
from llmariner.fine_tuning.worker_tokens import Worker
from llmariner.tenancy.principal import KeyOwner

from .http_calls import HttpRequest, HttpResponse, assert_error, send_over_http
from .served_function import served_function
from .training_jobs import training_job

PART = 64 << 10
CONTENT = random.Random(7).randbytes(5 * PART + 777)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Served:
    """The function in a process of its own, and the platform behind it."""

    context: Context
    port: int
    owner: KeyOwner

    def job(self, job_id: str) -> str:
        """The token of a new job."""
        with self.context.database.write() as session:
            session.add(fine_tuning_jobs, **training_job(job_id, self.owner))
            job = load_job(session, self.owner.project_id, job_id)
        return self.context.fine_tuning.worker_tokens.issue(job)

    def process_of(self, job_id: str, token: str) -> Platform:
        """What the program of the job speaks to the platform with."""
        return Platform(f"http://127.0.0.1:{self.port}/v1/fine_tuning/workers/{job_id}", token)

    def upload(self, job_id: str, folder: Path) -> str:
        """The id of the file of a state that the program of a new job uploads."""
        path = folder / "state.safetensors"
        path.write_bytes(CONTENT)
        return self.process_of(job_id, self.job(job_id)).upload(path, "state")

    def send(self, method: str, path: str, token: str, body: Any = None) -> HttpResponse:
        head = {"authorization": f"Bearer {token}"}
        return send_over_http(self.port, HttpRequest(method, f"/v1/fine_tuning/workers/{path}", body, head))

    def begin(self, job_id: str, token: str, size: int = len(CONTENT)) -> str:
        """The path of a new upload of a state."""
        terms = {"kind": "state", "bytes": size, "sha256": SHA256, "in_parts": True}
        said = json.loads(self.send("POST", f"{job_id}/uploads", token, terms).body)
        assert said["part_bytes"] == PART
        return f"{job_id}/uploads/{said['upload_id']}"

    def part(self, path: str, token: str, content: bytes) -> str:
        """The id of a part that is sent."""
        sent = self.send("PUT", f"{path}/parts/{hashlib.sha256(content).hexdigest()}", token, content)
        return str(json.loads(sent.body)["id"])

    def content(self, file_id: str) -> tuple[bytes, str]:
        """The bytes of a file, and its name."""
        file = self.context.files.get(self.owner.project_id, file_id)
        return b"".join(self.context.files.read(file)), file.filename


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    sizes = {"LLMARINER_UPLOAD_PART_BYTES": str(PART), "LLMARINER_UPLOAD_BYTES": str(100 * PART)}
    with served_function("fine_tuning_workers", tmp_path_factory.mktemp("results"), **sizes) as made:
        yield Served(*made)


def test_the_program_sends_a_large_result_in_parts_and_each_that_was_damaged_again(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, damaged = module._send, list[str]()

    def damage(method: str, url: str, data: Any, headers: dict[str, str]) -> dict[str, Any]:
        if method == "PUT" and len(damaged) < 2:
            damaged.append(url)
            data = bytes(len(data)) if len(damaged) == 1 else data[:-1]
            headers = {**headers, "content-length": str(len(data))}
        return send(method, url, data, headers)

    monkeypatch.setattr(module, "_send", damage)
    file_id = served.upload("ftjob-large", tmp_path)
    assert len(damaged) == 2
    assert served.content(file_id) == (CONTENT, "ftjob-large-state.safetensors")
    assert not list(served.context.objects.list("uploads/")), "parts are gone"


def pass_by(served: Served, job_id: str, seconds: int) -> None:
    """Let time pass by for the uploads of a job."""
    times = {name: upload_rows.c[name] - seconds for name in ("created_at", "expires_at")}
    with served.context.database.write() as session:
        session.run(update(upload_rows).where(upload_rows.c.filename.like(f"{job_id}-%")).values(times))


def test_an_upload_goes_on_for_hours_as_long_as_parts_arrive(served: Served) -> None:
    token = served.job("ftjob-slow")
    path = served.begin("ftjob-slow", token)
    parts = []
    for start in range(0, len(CONTENT), PART):
        pass_by(served, "ftjob-slow", 3500)
        assert served.context.uploads.expire() == 0
        parts.append(served.part(path, token, CONTENT[start : start + PART]))
    done = served.send("POST", f"{path}/complete", token, {"part_ids": parts, "sha256": SHA256})
    assert served.content(json.loads(done.body)["id"])[0] == CONTENT
    without_parts = served.begin("ftjob-slow", token)
    pass_by(served, "ftjob-slow", 3601)
    assert_error(served.send("PUT", f"{without_parts}/parts/{SHA256}", token, b"x"), 409, code="upload_expired")
    assert served.context.uploads.expire() == 1


def test_an_upload_that_expired_while_the_machine_slept_begins_again(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, sent = module._send, list[str]()

    def sleep(method: str, url: str, data: Any, headers: dict[str, str]) -> dict[str, Any]:
        if method == "PUT":
            sent.append(url)
            if len(sent) == 2:
                pass_by(served, "ftjob-asleep", 7200)
        return send(method, url, data, headers)

    monkeypatch.setattr(module, "_send", sleep)
    assert served.content(served.upload("ftjob-asleep", tmp_path))[0] == CONTENT
    assert len(sent) == 2 + 6, "all parts again"


@pytest.mark.parametrize(("expired", "links"), [(2, 3), (3, 3)])
def test_a_link_that_expired_is_asked_for_again_a_few_times(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, expired: int, links: int
) -> None:
    path, asked = tmp_path / "metrics.csv", list[str]()
    path.write_bytes(b"step\n")

    def send(method: str, url: str, data: Any, headers: dict[str, str]) -> dict[str, Any]:
        if method == "POST":
            asked.append(url)
            return {"url": "http://files/"}
        if len(asked) <= expired:
            said = json.dumps({"error": {"code": "link_expired", "message": "The link has expired."}}).encode()
            raise HTTPError(url, 403, "Forbidden", Message(), io.BytesIO(said))
        return {"id": "file-1"}

    monkeypatch.setattr(module, "_send", send)
    platform = Platform("http://platform", "token")
    if expired < links:
        assert platform.upload(path, "metrics") == "file-1"
    else:
        with pytest.raises(Refused, match="expired"):
            platform.upload(path, "metrics")
    assert len(asked) == links


def test_a_part_may_take_longer_than_a_platform_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 1.0)
    part, left = bytes(8 << 20), threading.Event()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def read_slowly() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as body:
                while body.readline() != b"\r\n":
                    pass
                for number in range(64):
                    body.read(128 << 10)
                    left.wait(0.05 if number < 26 else 0)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        thread = threading.Thread(target=read_slowly, daemon=True)
        thread.start()
        assert module._send("PUT", f"http://127.0.0.1:{listener.getsockname()[1]}/", part, {}) == {}
        thread.join()


def test_a_completion_that_is_asked_for_again_has_the_same_file_and_wrong_parts_have_none(served: Served) -> None:
    token = served.job("ftjob-again")
    path = served.begin("ftjob-again", token)
    parts = [served.part(path, token, CONTENT[start : start + PART]) for start in range(0, len(CONTENT), PART)]
    wrong = {"part_ids": [parts[1], parts[0], *parts[2:]], "sha256": SHA256}
    assert_error(served.send("POST", f"{path}/complete", token, wrong), 400, code="checksum_mismatch")
    for missing in ([], parts[1:], [*parts, "part_none"]):
        answer = served.send("POST", f"{path}/complete", token, {"part_ids": missing, "sha256": SHA256})
        assert answer.status == 400, answer.body
    whole = {"part_ids": parts, "sha256": SHA256}
    first, second = (served.send("POST", f"{path}/complete", token, whole) for _ in range(2))
    assert (first.status, first.body) == (200, second.body)
    assert served.content(json.loads(first.body)["id"])[0] == CONTENT
    assert_error(served.send("PUT", f"{path}/parts/{SHA256}", token, b"late"), 409, code="upload_completed")


def test_a_process_ends_the_upload_of_the_one_before_it(served: Served) -> None:
    token = served.job("ftjob-next")
    before = served.begin("ftjob-next", token)
    served.part(before, token, CONTENT[:PART])
    served.begin("ftjob-next", token)
    assert_error(served.send("PUT", f"{before}/parts/{SHA256}", token, b"x"), 409, code="upload_cancelled")
    with served.context.database.read() as session:
        c = upload_rows.c
        pending = session.rows(select(c.id).where(c.filename.like("ftjob-next%"), c.status == "pending"))
    assert len(pending) == 1, "one alone holds room"


def test_a_process_that_was_replaced_in_the_middle_ends_no_upload_of_its_successor(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, tuning = served.job("ftjob-replaced"), served.context.fine_tuning
    before, after = (tuning.worker_tokens.open(token, "ftjob-replaced", digit * 32) for digit in "ab")
    cancel, made = tuning.result_uploads.cancel, list[str]()

    def late(worker: Worker, project_id: str) -> None:
        if worker.process == before.process:
            with served.context.database.write() as session:
                same = fine_tuning_jobs.c.id == worker.job_id
                session.run(update(fine_tuning_jobs).where(same).values(process=after.process))
            made.append(tuning.result_uploads.begin(after, "state", len(CONTENT)).id)
        cancel(worker, project_id)

    monkeypatch.setattr(tuning.result_uploads, "cancel", late)
    with pytest.raises(Conflict, match="Another process has taken over"):
        tuning.result_uploads.begin(before, "state", len(CONTENT))
    with served.context.database.read() as session:
        c = upload_rows.c
        rows = session.rows(select(c.id, c.status).where(c.filename.like("ftjob-replaced%")))
    assert [(row.id, row.status) for row in rows] == [(made[0], "pending")]


def test_parts_belong_to_the_job_of_the_token(served: Served) -> None:
    token, other = served.job("ftjob-mine"), served.job("ftjob-other")
    path = served.begin("ftjob-mine", token)
    place = f"parts/{hashlib.sha256(b'x').hexdigest()}"
    upload_id = path.rpartition("/")[2]
    for wrong in ("", "guess", other):
        assert_error(served.send("PUT", f"{path}/{place}", wrong, b"x"), 401, code="invalid_api_key")
    elsewhere = f"ftjob-other/uploads/{upload_id}"
    assert_error(served.send("PUT", f"{elsewhere}/{place}", other, b"x"), 404, code="not_found")
    done = {"part_ids": [], "sha256": SHA256}
    assert_error(served.send("POST", f"{elsewhere}/complete", other, done), 404, code="not_found")
    named = NewFile("ftjob-mine-state.safetensors", Purpose.USER_DATA, "application/octet-stream")
    of_caller = served.context.uploads.create(served.owner, named, 1)
    assert_error(served.send("PUT", f"ftjob-mine/uploads/{of_caller.id}/{place}", token, b"x"), 404, code="not_found")
    assert served.send("PUT", f"{path}/{place}", token, bytes(PART + 1)).status == 413
    for kind, size in (("state", 101 * PART), ("weights", 2 * PART)):
        terms = {"kind": kind, "bytes": size, "sha256": SHA256, "in_parts": True}
        assert served.send("POST", "ftjob-mine/uploads", token, terms).status == 400
    ended = update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == "ftjob-mine").values(status="cancelled")
    with served.context.database.write() as session:
        session.run(ended)
    assert_error(served.send("PUT", f"{path}/{place}", token, b"x"), 409, code="attempt_ended")
    with pytest.raises((Refused, Stopped)):
        served.process_of("ftjob-mine", token).upload(Path(__file__), "state")
