"""A client of the API: requests, and responses with any status."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import load_kube_config

from llmariner.platform.kube.resources import Resource

__all__ = ["APPLY", "JSON", "JSON_PATCH", "MERGE", "STRATEGIC", "Body", "Caller", "causes", "until"]

Body = dict[str, Any]

JSON = "application/json"
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


@dataclass
class Caller:
    """Of the server that a kubeconfig names. `real`: it is a Kubernetes of its own, not the one in this process."""

    kubeconfig: Path
    real: bool = False
    agent: str = "tester"
    _configuration: Configuration = field(init=False)

    def __post_init__(self) -> None:
        self._configuration = Configuration()
        load_kube_config(str(self.kubeconfig), client_configuration=self._configuration, persist_config=False)
        self._pool = RESTClientObject(self._configuration).pool_manager

    def request(
        self, method: str, path: str, body: Any = None, /, *, media: str = JSON, **query: str | int
    ) -> tuple[int, Body]:
        """(code, body) of one request; of a watch, its first event."""
        answer = self._send(method, path, body, media, query)
        text = answer.data.decode()
        return answer.status, json.JSONDecoder().raw_decode(text)[0] if text.startswith("{") else {"text": text}

    def get(self, resource: Resource, namespace: str | None, name: str) -> Body:
        """The object. AssertionError: it isn't there."""
        return self.done("GET", resource.path(namespace, name))

    def done(self, method: str, path: str, body: Any = None, /, *, media: str = JSON, **query: str | int) -> Body:
        """The body of a request that succeeds. AssertionError: it didn't."""
        code, answer = self.request(method, path, body, media=media, **query)
        assert code < 300, answer
        return answer

    def make(self, resource: Resource, body: Body, **query: str | int) -> Body:
        """Create an object, as it is stored."""
        return self.done("POST", resource.path(body["metadata"].get("namespace")), body, media=JSON, **query)

    def apply(self, resource: Resource, body: Body, manager: str = "us", **query: str) -> tuple[int, Body]:
        """(code, body) of a server-side apply."""
        path = resource.path(body["metadata"]["namespace"], body["metadata"]["name"])
        return self.request("PATCH", path, body, media=APPLY, fieldManager=manager, **query)

    def patch(self, resource: Resource, namespace: str, name: str, patch: Any, media: str = MERGE) -> Body:
        """The object after a patch. AssertionError: it wasn't taken."""
        return self.done("PATCH", resource.path(namespace, name), patch, media=media)

    def set_status(self, resource: Resource, namespace: str | None, name: str, status: Body) -> Body:
        """What a controller does: merge into the object's status. A null removes."""
        return self.done("PATCH", resource.path(namespace, name, "status"), {"status": status}, media=MERGE)

    def lines(self, path: str, **query: str | int) -> Iterator[Body]:
        """The events of a watch, until the server ends it."""
        with self._send("GET", path, None, JSON, {"watch": "true", **query}) as answer:
            assert answer.status == 200, answer.data
            for line in answer:
                yield json.loads(line)

    def _send(
        self, method: str, path: str, body: Any, media: str, query: dict[str, str | int]
    ) -> urllib3.BaseHTTPResponse:
        headers = {"accept": JSON, "user-agent": self.agent, **({"content-type": media} if body is not None else {})}
        for credential in self._configuration.auth_settings().values():
            headers[credential["key"]] = credential["value"]
        sent: urllib3.BaseHTTPResponse = self._pool.request(
            method,
            f"{self._configuration.host}{path}?{urlencode(query)}",
            body=None if body is None else json.dumps(body).encode(),
            headers=headers,
            timeout=60,
            preload_content=False,
        )
        return sent


def causes(status: Body) -> list[tuple[str, str]]:
    """(field, reason) of each, in order."""
    return sorted((cause["field"], cause["reason"]) for cause in status["details"]["causes"])


def until(asked: Any, seconds: float = 20.0) -> Any:
    """The first answer of `asked()` that is true. AssertionError: none was in time."""
    end = time.monotonic() + seconds
    while not (found := asked()):
        assert time.monotonic() < end, "nothing came of it in time"
        time.sleep(0.05)
    return found
