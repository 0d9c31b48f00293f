"""MLflow's tracking server, by its REST API 2.0 (https://mlflow.org/docs/latest/rest-api.html).

MLflow keeps one value for each metric, step and time, so values that come again change nothing. Artifacts go through the
server (`mlflow-artifacts:`); a server that keeps them elsewhere would need a credential of that store.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from llmariner.platform.trackers import Credential, NewRun, Outcome, Point, Run, TrackingRefused
from llmariner.platform.trackers.requests import Server, basic

__all__ = ["Mlflow"]

_API = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_KEY_TAG = "llmariner.run"
_MAX_METRICS = 1000
"""Of one `log-batch`, the API's limit."""
_METRICS_PER_POINT = 10
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST"})
_EXISTS = frozenset({"RESOURCE_ALREADY_EXISTS"})
_STATUSES = {Outcome.FINISHED: "FINISHED", Outcome.FAILED: "FAILED", Outcome.KILLED: "KILLED"}


class Mlflow:
    """See the port."""

    max_points = _MAX_METRICS // _METRICS_PER_POINT
    takes_files = True

    def __init__(self, url: str, credential: Credential | None) -> None:
        self._url = url
        authorization = None
        if credential is not None:
            token = f"Bearer {credential.secret.reveal()}"
            authorization = basic(credential) if credential.username else token
        self._server = Server("MLflow", url, authorization)

    def begin(self, run: NewRun) -> Run:
        """See the port."""
        experiment = self._experiment(run.project)
        info = self._find(experiment, run.key) or self._create(experiment, run)
        run_id = self._id(info, "run_id")
        parameters = [{"key": name, "value": str(value)} for name, value in run.parameters.items()]
        self._server.ask("POST", f"{_API}/runs/log-batch", {"run_id": run_id, "params": parameters})
        place = str(info.get("artifact_uri"))[:1000]
        # What is not printable no database stores, such as half a surrogate pair.
        return Run(
            run_id, f"{self._url}/#/experiments/{experiment}/runs/{run_id}", place if place.isprintable() else ""
        )

    def log(self, run: Run, points: Sequence[Point]) -> None:
        """See the port."""
        metrics = [
            {"key": name, "value": value, "timestamp": int(point.at * 1000), "step": point.step}
            for point in points
            for name, value in point.metrics.items()
        ]
        self._server.ask("POST", f"{_API}/runs/log-batch", {"run_id": run.id, "metrics": metrics})

    def upload(self, run: Run, name: str, size_bytes: int, parts: Iterable[bytes]) -> None:
        """See the port."""
        try:
            place = urlsplit(run.place)
        except ValueError:
            place = urlsplit("")
        folders = [part for part in place.path.split("/") if part]
        if place.scheme != "mlflow-artifacts" or ".." in folders:
            raise TrackingRefused(
                f"MLflow at {self._url} keeps artifacts at '{place.scheme[:32]}:' and not through itself: start it with "
                "--serve-artifacts"
            )
        target = "/".join((_ARTIFACTS, *(quote(part, safe="") for part in folders), quote(name)))
        self._server.put(target, size_bytes, parts)

    def end(self, run: Run, outcome: Outcome, at: float, points: int) -> None:
        """See the port."""
        body = {"run_id": run.id, "status": _STATUSES[outcome], "end_time": int(at * 1000)}
        self._server.ask("POST", f"{_API}/runs/update", body)

    def _experiment(self, name: str) -> str:
        found = self._named_experiment(name)
        if found is None:
            made = self._server.ask("POST", f"{_API}/experiments/create", {"name": name}, absent=_EXISTS)
            # None: somebody else created it since.
            found = made if made is not None else self._named_experiment(name)
        return self._id(found, "experiment_id")

    def _named_experiment(self, name: str) -> Any:
        query = urlencode({"experiment_name": name})
        answer = self._server.ask("GET", f"{_API}/experiments/get-by-name?{query}", absent=_ABSENT)
        return None if answer is None else answer.get("experiment")

    def _find(self, experiment: str, key: str) -> dict[str, Any] | None:
        """The run that a call before began, whose answer was lost."""
        body = {
            "experiment_ids": [experiment],
            "filter": f"tags.`{_KEY_TAG}` = '{key}'",
            "run_view_type": "ALL",
            "max_results": 1,
        }
        runs = self._server.ask("POST", f"{_API}/runs/search", body).get("runs")
        return self._info(runs[0]) if isinstance(runs, list) and runs else None

    def _create(self, experiment: str, run: NewRun) -> dict[str, Any]:
        tags = {**run.tags, _KEY_TAG: run.key}
        body = {
            "experiment_id": experiment,
            "run_name": run.name,
            "start_time": int(run.started_at * 1000),
            "tags": [{"key": name, "value": value} for name, value in tags.items()],
        }
        return self._info(self._server.ask("POST", f"{_API}/runs/create", body).get("run"))

    def _info(self, run: Any) -> dict[str, Any]:
        info = run.get("info") if isinstance(run, dict) else None
        if not isinstance(info, dict):
            raise self._server.refusal("its answer has no run")
        return info

    def _id(self, found: Any, name: str) -> str:
        value = found.get(name) if isinstance(found, dict) else None
        if not isinstance(value, str) or not _ID.fullmatch(value):
            raise self._server.refusal(f"its answer has no {name}")
        return value
