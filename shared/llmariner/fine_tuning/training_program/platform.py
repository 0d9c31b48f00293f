"""The platform as a job sees it: its plan, its reports, links to upload. It holds the job's own token and nothing else."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from llmariner.fine_tuning.training_program.plan import Plan

__all__ = ["Platform", "Stopped"]

_TRY_SECONDS = 600.0
"""How long a platform may be away, such as for a restart, until the job gives up."""
_TIMEOUT_SECONDS = 60.0
_REPORT_SECONDS = 1.0
_GONE = (401, 403, 404, 409)


class Stopped(Exception):
    """The platform wants no more of this job: it is canceled, deleted or started again."""


class Platform:
    """`url`: of the job's worker routes. `pause_requested`: what the latest answer to a report said."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token
        self._records: list[dict[str, Any]] = []
        self._reported_at = 0.0
        self.pause_requested = False

    def plan(self) -> Plan:
        """What to do."""
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
        """Upload a file; returns its id. `kind`: `state`, `adapter` or `metrics`."""
        content = path.read_bytes()
        terms = {"kind": kind, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        link = self._ask("POST", self._url + "/uploads", terms)
        return str(self._ask("PUT", link["url"], content)["id"])

    def fetch(self, url: str, target: Path) -> Path:
        """Download a file by its link."""
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as source, target.open("wb") as file:
            while part := source.read(1 << 20):
                file.write(part)
        return target

    def _ask(self, method: str, url: str, body: Any = None) -> dict[str, Any]:
        """A request, repeated until it has an answer. An upload whose answer was lost is known by its link's id."""
        until, pause = time.monotonic() + _TRY_SECONDS, 0.2
        while True:
            try:
                return self._ask_once(method, url, body)
            except urllib.error.HTTPError as error:
                said = error.read()
                if error.code == 409 and b'"link_used"' in said:
                    return {"id": json.loads(said)["error"]["file_id"]}
                if error.code in _GONE:
                    raise Stopped(said.decode(errors="replace")[:500]) from error
                if error.code < 500 and error.code != 429:
                    raise
                problem: Exception = error
            except OSError as error:
                problem = error
            if time.monotonic() > until:
                raise problem
            time.sleep(pause)
            pause = min(10.0, 2 * pause)

    def _ask_once(self, method: str, url: str, body: Any) -> dict[str, Any]:
        is_content = isinstance(body, bytes)
        data = body if is_content or body is None else json.dumps(body).encode()
        headers = {"content-type": "application/octet-stream" if is_content else "application/json"}
        if url.startswith(self._url):  # a link is a credential of its own
            headers["authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            return dict(json.load(answer))
