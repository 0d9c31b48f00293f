"""The platform as a job sees it: its plan, its reports, links to upload. It holds the job's own token and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar, cast

from llmariner.fine_tuning.training_program.download import Download
from llmariner.fine_tuning.training_program.http_answers import TIMEOUT_SECONDS, Refused, error_of, trusted
from llmariner.fine_tuning.training_program.plan import Plan

__all__ = ["AnswerPlace", "NoGrades", "Platform", "Refused", "Stopped"]

Answer = TypeVar("Answer")
_PROCESS_HEADER = "x-llmariner-process"
_TRY_SECONDS = 600.0
"""How long a platform may be away, such as for a restart, until the job gives up."""
_REPORT_SECONDS = 1.0
_GONE = (401, 403, 404, 409)
_TRIED_AGAIN = ("upload_in_progress", "checksum_mismatch", "invalid_body")
"""Codes of errors of uploads: by the answer to a request that was cut off, and of bytes that did not arrive as they were."""
_EXPIRED = ("upload_expired", "link_expired")
"""Codes of errors of an upload that took too long, such as on a machine that was suspended: another one may begin."""
_UPLOADS = 3
"""Of one file: a line on which they all expire is too slow."""
_LINK_BYTES = 64 << 10
"""Of a presigned URL with the headers to send."""


class Stopped(Exception):
    """The platform wants no more of this job: it is canceled, deleted or started again."""


class NoGrades(Exception):
    """Judging models can't be asked for longer than the job waits; the message is the platform's."""


@dataclass(frozen=True)
class AnswerPlace:
    """Which of a job's answers one is. By that the platform knows an answer that is made again after an interruption.

    `grader`: that of the job's `method` or `gate`. `step`: after or in which it is made. `name`: of one in the step.
    """

    grader: str
    step: int
    name: str

    def part(self, number: int) -> AnswerPlace:
        """The place of one of several answers."""
        return replace(self, name=f"{self.name}.{number}" if self.name else str(number))


class Platform:
    """`url`: of the job's worker routes. `pause_requested`: what the latest answer to a report said.

    `process`: the id of the process that asked for the plan, which all workers of a group share. By it the platform knows
    them from processes before them that continue, such as on a node that is lost.
    """

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self.process = ""
        self._records: list[dict[str, Any]] = []
        self._reported_at = 0.0
        self.pause_requested = False
        self._store_answers = True

    def plan(self) -> Plan:
        """What to do. From now on the platform hears no process before this one."""
        self.process = uuid.uuid4().hex
        return Plan.from_json(self._ask("GET", self._url + "/plan"))

    def report(self, record: dict[str, Any], *, now: bool = False) -> None:
        """Report what happened, at once or with what happens in the next second."""
        self._records.append(record)
        if not now and time.monotonic() - self._reported_at < _REPORT_SECONDS:
            return
        answer = self._ask("POST", self._url + "/reports", {"records": self._records})
        self._records, self._reported_at = [], time.monotonic()
        self.pause_requested = answer.get("action") == "pause"

    def upload(self, path: Path, kind: str) -> str:
        """Upload a file; returns its id. `kind`: `state`, `adapter`, `model` or `metrics`."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        for _ in range(_UPLOADS - 1):
            try:
                return self._upload(path, kind, digest)
            except Refused as error:
                if error.code not in _EXPIRED:
                    raise
                print(f"An upload took too long, so it begins again: {error}", file=sys.stderr)
        return self._upload(path, kind, digest)

    def _upload(self, path: Path, kind: str, digest: str) -> str:
        terms = {"kind": kind, "bytes": path.stat().st_size, "sha256": digest, "in_parts": True}
        answer = self._ask("POST", self._url + "/uploads", terms)
        if "upload_id" in answer:
            return self._upload_parts(path, f"{self._url}/uploads/{answer['upload_id']}", answer["part_bytes"], digest)
        url = str(answer["url"])
        headers = {"content-type": "application/octet-stream", "content-length": str(path.stat().st_size)}

        def send() -> dict[str, Any]:
            with path.open("rb") as content:
                return _send("PUT", url, content, headers)

        return str(_repeat(send)["id"])

    def _upload_parts(self, path: Path, url: str, part_bytes: int, digest: str) -> str:
        """The id of the file. A part that does not arrive is sent again, and the others are not."""
        part_ids = []
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for start in range(0, len(content), part_bytes):
                part = content[start : start + part_bytes]
                target = f"{url}/parts/{hashlib.sha256(part).hexdigest()}"
                part_ids.append(self._ask("PUT", target, part)["id"])
        return str(self._ask("POST", f"{url}/complete", {"part_ids": part_ids, "sha256": digest})["id"])

    def fetch(self, name: str, url: str, target: Path) -> Path:
        """Download a file of the plan by its link, and by new ones once it has expired. `name`: the field of the plan.

        Raises Refused, Stopped, OSError.
        """
        download = Download(url, target, lambda: str(self._ask("GET", f"{self._url}/links/{name}")["url"]))
        while not _repeat(download.advance):
            pass
        return target

    def weights(self) -> list[dict[str, Any]]:
        """The files of the base model: `path`, `size`, `sha256`, `md5`, `version`, `pieces` (their sizes, in order)."""
        return list(self._ask("GET", self._url + "/weights")["data"])

    def weights_piece(self, file: Mapping[str, Any], start: int, size: int) -> bytes:
        """The bytes of a piece, from the store where it is reached, else from the platform. Raises Stopped, OSError."""
        query = urllib.parse.urlencode({"start": start, "version": file["version"]})
        url = f"{self._url}/weights/{urllib.parse.quote(file['path'])}?{query}"
        headers = {"authorization": f"Bearer {self._token}"}

        def fetch() -> bytes:
            signed = self._store_answers
            content, kind = _read(f"{url}&signed={str(signed).lower()}", headers, max(size, _LINK_BYTES))
            if signed and kind == "application/json":
                content = self._of_store(json.loads(content), size)
            if len(content) != size:
                raise ConnectionError("A piece of the weights was cut off.")
            return content

        return _repeat(fetch, gone=Stopped)

    def _of_store(self, link: Mapping[str, Any], size: int) -> bytes:
        """Up to so many bytes, from the store. Raises ConnectionError, mostly once: the platform is asked then."""
        try:
            content, _ = _read(link["url"], link["headers"], size)
            problem = "It sends more than the piece." if len(content) > size else ""
        except OSError as error:  # this pod does not reach the store, or the URL came too late
            if isinstance(error, urllib.error.HTTPError) and error.code >= 500:
                raise ConnectionError("The store did not give the piece.") from error
            problem = str(error)
        if problem:
            print(f"The store gives no piece, so the platform is asked: {problem}", file=sys.stderr)
            self._store_answers = False
            raise ConnectionError("The store did not give the piece.")
        return content

    def grade(self, item: Mapping[str, Any], text: str, place: AnswerPlace) -> tuple[float, bool]:
        """The reward of an answer, and whether an error made it 0. The same answer at the same place is graded once.

        Raises NoGrades.
        """
        query = urllib.parse.urlencode({"step": place.step, "place": place.name})
        body = {"item": item, "output_text": text, "grader": place.grader}
        try:
            found = self._ask("POST", f"{self._url}/grades?{query}", body)
        except urllib.error.HTTPError as error:
            raise NoGrades(f"A model of the grader can't be asked: {error}") from error
        except Refused as error:
            if error.code == "insufficient_quota":
                raise NoGrades(str(error)) from error
            raise
        return float(found["reward"]), bool(found["errors"])

    def _ask(self, method: str, url: str, body: Any = None) -> dict[str, Any]:
        is_part = isinstance(body, bytes)
        data = body if body is None or is_part else json.dumps(body).encode()
        kind = "application/octet-stream" if is_part else "application/json"
        headers = {"content-type": kind, "authorization": f"Bearer {self._token}"}
        if self.process:
            headers[_PROCESS_HEADER] = self.process
        return _repeat(lambda: _send(method, url, data, headers), gone=Stopped)


def _repeat(work: Callable[[], Answer], gone: type[Exception] = Refused) -> Answer:
    """What a request returns, repeated until it has an answer. Raises Refused, OSError; `gone` where it has no right."""
    until, pause = time.monotonic() + _TRY_SECONDS, 0.2
    while True:
        try:
            try:
                return work()
            except urllib.error.HTTPError as error:
                return cast(Answer, _settled(error, gone))
        except (OSError, HTTPException) as error:
            problem = error
        if time.monotonic() > until:
            raise problem
        time.sleep(pause)
        pause = min(10.0, 2 * pause)


def _settled(error: urllib.error.HTTPError, gone: type[Exception]) -> dict[str, Any]:
    """The answer that an error is. As `_repeat` raises; OSError, HTTPException where the request may be repeated."""
    said = error_of(error)
    if said.get("code") == "link_used":  # the answer to an earlier attempt was lost
        return {"id": said["file_id"]}
    message = str(said.get("message") or error)[:500]
    if said.get("code") in _EXPIRED:
        raise Refused(message, said.get("code")) from error
    if error.code in _GONE and said.get("code") not in _TRIED_AGAIN:
        raise gone(message) from error
    again = error.code == 429 and said.get("code") != "insufficient_quota"
    if error.code < 500 and not again and said.get("code") not in _TRIED_AGAIN:
        raise Refused(message, said.get("code")) from error
    raise error


def _send(method: str, url: str, data: Any, headers: dict[str, str]) -> dict[str, Any]:
    if isinstance(data, bytes):  # the time limit is that of a block of a file, and would be one of all these bytes
        data, headers = io.BytesIO(data), {"content-length": str(len(data)), **headers}
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=trusted()) as answer:
        return dict(json.load(answer))


def _read(url: str, headers: Mapping[str, str], most: int) -> tuple[bytes, str]:
    """The body of a response, cut off after one byte more than `most`, and its content type."""
    request = urllib.request.Request(url, headers=dict(headers))
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=trusted()) as answer:
        return answer.read(most + 1), answer.headers.get_content_type()
