"""What scenarios ask of an installed platform as its callers, and of its parts as its operator."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llmariner.context import Context
from llmariner.manifests.installation import MODELS_NAMESPACE, NAMESPACE

from ..lab.kubectl import get
from ..lab.wait import until
from ..platform.installed import Installed

__all__ = ["GENERATED", "PARIS", "PROMPTED", "Answer", "PlatformClient", "first_usage"]

PARIS = "What is the capital of France?"
GENERATED = "vllm:generation_tokens_total"
PROMPTED = "vllm:prompt_tokens_total"
_TICKS_SECONDS = 20
_TICK = "dev.knative.sources.ping", f"/apis/v1/namespaces/{NAMESPACE}/pingsources/sweep"


@dataclass
class Answer:
    """An answer to its end. Seconds count from the request's first byte."""

    status: int
    headers: http.client.HTTPMessage
    comments: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    body: dict[str, Any] = field(default_factory=dict)
    opened: float = 0.0
    first_token: float | None = None

    @property
    def request_id(self) -> str:
        return str(self.headers["x-request-id"])

    @property
    def phases(self) -> list[str]:
        """Reported while it waited, in order, each once."""
        return list(dict.fromkeys(str(comment["phase"]) for comment in self.comments))

    @property
    def messages(self) -> list[str]:
        """Reported while it waited, in order, each once."""
        return list(dict.fromkeys(str(comment["message"]) for comment in self.comments if comment["message"]))

    @property
    def text(self) -> str:
        if "choices" in self.body:
            return str(self.body["choices"][0]["message"]["content"])
        choices = [choice for event in self.events for choice in event.get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error, by status or as the stream's last event."""
        ends: list[dict[str, Any]] = [self.body, *self.events[-1:]]
        return next((end["error"] for end in ends if "error" in end), None)

    @property
    def usage(self) -> dict[str, int]:
        reported = [event["usage"] for event in [*self.events, self.body] if event.get("usage")]
        return dict(reported[-1])


class PlatformClient:
    """A caller with the administrator's key, and an operator with kubectl."""

    def __init__(self, installed: Installed) -> None:
        self.installed = installed
        self.host, self.key = installed.address, installed.api_key
        self.context = Context({"LLMARINER_DATABASE_URL": installed.database_url})

    def close(self) -> None:
        self.context.database.close()

    def send(
        self, model: str, text: str = PARIS, *, wait: int | None = None, **fields: Any
    ) -> http.client.HTTPConnection:
        """Post a request for a chat, and wait for nothing."""
        connection = http.client.HTTPConnection(self.host, 80, timeout=400)
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        headers |= {} if wait is None else {"prefer": f"wait={wait}"}
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 40}
        connection.request("POST", "/v1/chat/completions", json.dumps(body | fields), headers)
        return connection

    def whole(self, model: str, text: str = PARIS, *, wait: int | None = None, **fields: Any) -> Answer:
        """A whole answer."""
        began = time.monotonic()
        with contextlib.closing(self.send(model, text, wait=wait, **fields)) as connection:
            response = connection.getresponse()
            body = json.loads(response.read())
        return Answer(response.status, response.headers, body=body, opened=time.monotonic() - began)

    def stream(self, model: str, text: str = PARIS, *, wait: int | None = None, **fields: Any) -> Answer:
        """A streamed answer, read to its end."""
        began = time.monotonic()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        with contextlib.closing(self.send(model, text, wait=wait, **options, **fields)) as connection:
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, opened=time.monotonic() - began)
            if response.status != 200:
                answer.body = json.loads(response.read())
                return answer
            for line in response:
                if line.startswith(b": "):
                    answer.comments.append(json.loads(line[2:]))
                elif line.startswith(b"data: {"):
                    answer.events.append(json.loads(line[6:]))
                    if answer.first_token is None and answer.text:
                        answer.first_token = time.monotonic() - began
        return answer

    def counted(self, model: str, name: str = GENERATED) -> int:
        """A count that the model's engines keep, of what callers asked."""
        return sum(self.counted_by(pod, name) for pod in self.installed.engine_pods(model))

    def counted_by(self, pod: dict[str, Any], name: str = GENERATED) -> int:
        """A count that one engine keeps, without what the platform itself asked it at its start."""
        address = _address(pod)
        return _counter(address, name) - first_usage(address)[name]

    def first_answer(self, model: str) -> str:
        """The answer check that the model's only engine reports."""
        (pod,) = self.installed.engine_pods(model)
        return str(_first_answer(_address(pod))["answer"])

    def row(self, request_id: str, seconds: float = 20) -> dict[str, Any]:
        """A request in the ledger, as soon as it is closed there."""
        limit = time.monotonic() + seconds
        while not ((row := self.context.ledger.request(request_id)) and row["outcome"] != "open"):
            assert time.monotonic() < limit, f"{request_id} is not closed: {row}"
            time.sleep(0.2)
        return dict(row)

    def tick(self) -> None:
        """The clock's event, by the Broker, as the PingSource sends it."""
        ingress = get(self.installed.lab, "service", "broker-ingress", "-n", "knative-eventing")["spec"]["clusterIP"]
        headers = {
            "content-type": "application/json",
            "ce-specversion": "1.0",
            "ce-type": _TICK[0],
            "ce-source": _TICK[1],
            "ce-id": uuid.uuid4().hex,
        }
        body = b'{"every_seconds": 300}'
        request = urllib.request.Request(f"http://{ingress}/llmariner/default", body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 202

    def ticking(self, what: str, missing: Callable[[], str | None], *, seconds: float = 240) -> None:
        """Wait while the clock ticks. An undelivered tick is not stored: the next one follows."""
        ticked = float("-inf")

        def check() -> str | None:
            nonlocal ticked
            if time.monotonic() - ticked > _TICKS_SECONDS:
                self.tick()
                ticked = time.monotonic()
            return missing()

        until(what, check, seconds=seconds, pause=1)

    def adopted(self, *models: str) -> None:
        """Wait until models that others made are served."""
        self.ticking("adopted", lambda: ", ".join(sorted(set(models) - set(self.listed()))) or None)

    def sleep(self, model: str, seconds: float = 180) -> None:
        """Put a model to sleep, as a user does, and wait until its engines are gone."""
        status, answer = self.installed.call("POST", f"/models/{model}:deactivate")
        assert status == 200, answer
        until(f"{model} sleeps", lambda: self.awake(model), seconds=seconds)

    def awake(self, model: str) -> str | None:
        """What there still is of a model's engines; None: it sleeps."""
        name = self.service(model)
        pods = get(
            self.installed.lab, "pods", "-n", MODELS_NAMESPACE, "-l", f"serving.kserve.io/inferenceservice={name}"
        )
        return f"{len(pods['items'])} pods" if pods["items"] else None

    def service(self, model: str) -> str:
        """The name of a model's InferenceService; "" when it has none (yet)."""
        services = get(self.installed.lab, "inferenceservices", "-n", MODELS_NAMESPACE)["items"]
        marked = {each["metadata"].get("annotations", {}).get("llmariner.ai/model"): each for each in services}
        named = {each["metadata"]["name"]: each for each in services}
        found = marked.get(model) or named.get(model)
        return str(found["metadata"]["name"]) if found else ""

    def listed(self) -> list[str]:
        """The ids of GET /v1/models."""
        status, answer = self.installed.call("GET", "/models?limit=500")
        assert status == 200, answer
        return [str(each["id"]) for each in answer["data"]]


def _address(pod: dict[str, Any]) -> str:
    port = pod["spec"]["containers"][0].get("ports", [{"containerPort": 8080}])[0]["containerPort"]
    return f"http://{pod['status']['podIP']}:{port}"


def first_usage(address: str) -> dict[str, int]:
    """Token counts of an engine's answer check, by name."""
    limit = time.monotonic() + 60
    while (reported := _first_answer(address))["answer"] == "pending":
        assert time.monotonic() < limit, f"{address} does not answer what it is asked at its start"
        time.sleep(0.2)
    assert reported["answer"] != "differs", reported
    return {GENERATED: reported["usage"]["completion_tokens"], PROMPTED: reported["usage"]["prompt_tokens"]}


def _first_answer(address: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{address}/llmariner/answer", timeout=20) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as refusal:
        if refusal.code != 404:
            raise
        return {"answer": "not_asked", "usage": {"completion_tokens": 0, "prompt_tokens": 0}}


def _counter(address: str, name: str) -> int:
    with urllib.request.urlopen(f"{address}/metrics", timeout=20) as answer:
        rows: Iterator[str] = iter(answer.read().decode().splitlines())
    return int(sum(float(row.rpartition(" ")[2]) for row in rows if row.startswith(f"{name}{{")))
