"""Weights & Biases, by the calls of its own client (wandb 0.31): GraphQL for a run, a stream of lines for its metrics.

The id of a run is chosen here, and lines are sent with their numbers, so what is sent again replaces itself. Files are not
sent: the client uploads them to addresses that the server names, which no operator allowed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from llmariner.platform.trackers import Credential, NewRun, Outcome, Point, Run, TrackingRefused, TrackingUnavailable
from llmariner.platform.trackers.requests import Server, basic

__all__ = ["Wandb"]

_USERNAME = "api"
_UPSERT = """\
mutation UpsertBucket($name: String, $project: String, $entity: String, $displayName: String, $config: JSONString,
 $tags: [String!]) {
  upsertBucket(input: {name: $name, modelName: $project, entityName: $entity, displayName: $displayName,
   config: $config, tags: $tags}) {
    bucket { id name project { name entity { name } } }
    inserted
  }
}
"""
_EXIT_CODES = {Outcome.FINISHED: 0, Outcome.FAILED: 1, Outcome.KILLED: 255}
_MAX_NAME, _MAX_PLACE = 256, 700


class Wandb:
    """See the port."""

    max_points = 500
    takes_files = False

    def __init__(self, url: str, credential: Credential | None) -> None:
        if credential is None:
            raise TrackingUnavailable(
                f"the project has no API key for {url}: set one with POST /v1/fine_tuning/credentials"
            )
        self._server = Server("Weights & Biases", url, basic(credential, _USERNAME))
        parts = urlsplit(url)
        # The pages of api.wandb.ai are at wandb.ai; a server of one's own has both at one address.
        self._pages = parts._replace(netloc=parts.netloc.removeprefix("api.")).geturl()

    def begin(self, run: NewRun) -> Run:
        """See the port."""
        variables = {
            "name": run.key,
            "project": run.project,
            "entity": run.entity,
            "displayName": run.name,
            "config": json.dumps({name: {"value": value} for name, value in run.parameters.items()}),
            "tags": list(run.tags),
        }
        body = {"query": _UPSERT, "variables": variables, "operationName": "UpsertBucket"}
        answer = self._server.ask("POST", "/graphql", body)
        if errors := answer.get("errors"):
            first = errors[0] if isinstance(errors, list) else errors
            raise self._server.refusal(str(first.get("message") if isinstance(first, dict) else first))
        project = self._at(answer, "data", "upsertBucket", "bucket", "project")
        names = (self._name(project, "entity", "name"), self._name(project, "name"))
        place = "/".join(quote(name, safe="") for name in names)
        if len(place) > _MAX_PLACE:
            raise self._server.refusal("its answer has names that are too long")
        return Run(run.key, f"{self._pages}/{place}/runs/{run.key}", place)

    def log(self, run: Run, points: Sequence[Point]) -> None:
        """See the port."""
        lines = [json.dumps({**point.metrics, "_step": point.step, "_timestamp": point.at}) for point in points]
        history = {"offset": points[0].number, "content": lines}
        summary = {"offset": 0, "content": lines[-1:]}
        self._stream(run, {"files": {"wandb-history.jsonl": history, "wandb-summary.json": summary}})

    def upload(self, run: Run, name: str, size_bytes: int, parts: Iterable[bytes]) -> None:
        """See the port."""
        raise TrackingRefused("no files are sent to Weights & Biases")

    def end(self, run: Run, outcome: Outcome, at: float, points: int) -> None:
        """See the port."""
        self._stream(run, {"files": {}, "complete": True, "exitcode": _EXIT_CODES[outcome]})

    def _stream(self, run: Run, body: dict[str, Any]) -> None:
        self._server.ask("POST", f"/files/{run.place}/{quote(run.id, safe='')}/file_stream", body)

    def _at(self, answer: Any, *names: str) -> Any:
        for name in names:
            answer = answer.get(name) if isinstance(answer, dict) else None
        if answer is None:
            raise self._server.refusal(f"its answer has no {names[-1]}")
        return answer

    def _name(self, answer: Any, *names: str) -> str:
        found = self._at(answer, *names)
        if (
            not isinstance(found, str)
            or not 0 < len(found) <= _MAX_NAME
            or found in (".", "..")
            or not found.isprintable()
        ):
            raise self._server.refusal(f"its answer has a wrong {names[0]}")
        return found
