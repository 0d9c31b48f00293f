"""Events on a cluster: none is lost if a consumer, the Broker or a publisher fails, and duplicates have no effect."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmariner.manifests.installation import NAMESPACE
from llmariner.settings import StandaloneSettings, environment

from ...lab.kubectl import get, kubectl
from ...lab.wait import until
from ...platform.installed import Installed
from ...platform.overlay import MODELS
from ..functions import Call, Functions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

Body = dict[str, Any]

_EVENTING = "knative-eventing"
_INGRESS = "deployment/mt-broker-ingress"
_ATTEMPTS = 8
_NOWHERE = {"name": "LLMARINER_DATABASE_URL", "value": "postgresql://nobody:nothing@127.0.0.1:1/none"}


@pytest.fixture(scope="module")
def functions(installed: Installed) -> Functions:
    return Functions(installed)


@pytest.fixture
def models(installed: Installed) -> Iterator[list[str]]:
    """Ids of models that a test makes; they are deleted after it."""
    made: list[str] = []
    yield made
    for model in made:
        installed.call("DELETE", f"/models/{model}")


@pytest.fixture
def every_minute(installed: Installed) -> Iterator[None]:
    """The clock of the sweep, five times as fast."""
    source = get(installed.lab, "pingsource", "sweep", "-n", NAMESPACE)
    _schedule(installed, "* * * * *")
    yield
    _schedule(installed, source["spec"]["schedule"])


def test_failed_deliveries_are_retried_stored_and_replayed(functions: Functions, models: list[str]) -> None:
    installed = functions.installed
    variables = functions.services()["model-loader"]["spec"]["template"]["spec"]["containers"][0]["env"]
    place = [each["name"] for each in variables].index(_NOWHERE["name"])
    change = {"op": "replace", "path": f"/spec/template/spec/containers/0/env/{place}", "value": _NOWHERE}
    with functions.changed("model-loader", [change]) as revision:
        model, began = _create(installed, models), time.monotonic()
        until("dead letter", lambda: None if _dead(installed, model) else "none", seconds=240, pause=2)
        took, tried = time.monotonic() - began, _failures(functions, revision)
    [letter] = _dead(installed, model)
    assert (letter["consumer"], letter["state"]) == ("model_loader", "dead")
    # Each publication: two concurrent publishers may both send it.
    assert tried
    assert tried % _ATTEMPTS == 0
    assert letter["last_error"].startswith("500"), letter
    assert _status(installed, model) != "MODEL_LOADING_STATUS_SUCCEEDED"
    print(f"\n{tried} attempts, dead letter after {took:.0f} s: {letter['last_error'][:120]}")
    began = time.monotonic()
    said = _llma(installed, "events", "replay", letter["id"])
    assert letter["id"] in said
    until("loaded", lambda: _not_loaded(installed, [model]), seconds=120)
    print(f"replayed and taken after {time.monotonic() - began:.1f} s")
    until("no dead letter", lambda: "still there" if _dead(installed, model) else None)


def test_events_that_the_broker_missed_are_published_by_the_sweep(
    functions: Functions, models: list[str], every_minute: None
) -> None:
    installed = functions.installed
    with _no_broker(installed):
        for _ in range(5):
            _create(installed, models)
        time.sleep(20)
        assert set(models) <= _unpublished(installed)
        assert _not_loaded(installed, models) == ", ".join(models)
    began = time.monotonic()
    until("loaded", lambda: _not_loaded(installed, models), seconds=240)
    print(f"\n{len(models)} events swept and taken {time.monotonic() - began:.0f} s after the Broker was back")
    until("published", lambda: "not yet" if _unpublished(installed) & set(models) else None)


def test_unpublished_events_of_a_killed_function_are_published_by_the_sweep(
    functions: Functions, models: list[str], every_minute: None
) -> None:
    installed = functions.installed
    assert installed.call("GET", "/models")[0] == 200
    broker = [pid for pod in _broker_pods(installed) for pid in _processes(pod, "ingress")]
    publishers = [pid for pod in functions.pods()["models"] for pid in _processes(pod, "llmariner.boot")]
    assert broker
    assert publishers
    _signal(broker, signal.SIGSTOP)
    try:
        model = _create(installed, models)
        # It has answered, so the change is committed; the Broker does not answer, so it is still publishing.
        _signal(publishers, signal.SIGKILL)
        assert model in _unpublished(installed)
    finally:
        _signal(broker, signal.SIGCONT)
    began = time.monotonic()
    until("loaded", lambda: _not_loaded(installed, models), seconds=240)
    until("published", lambda: "not yet" if model in _unpublished(installed) else None, seconds=240)
    print(f"\npublished and taken {time.monotonic() - began:.0f} s after the function was killed")
    until("another copy", lambda: None if installed.call("GET", "/models")[0] == 200 else "no answer")


def test_a_repeated_event_changes_nothing(functions: Functions, models: list[str]) -> None:
    installed = functions.installed
    model = _create(installed, models)
    until("loaded", lambda: _not_loaded(installed, [model]))
    known = _events_of(installed, model)
    [created] = [each for each in known if each["type"] == "ai.llmariner.model.created.v1"]
    again = Call("POST", "/", _headers(created), created["data"])
    for _ in range(3):
        assert functions.ask("model-loader", again).status == 204
    broker = get(installed.lab, "service", "broker-ingress", "-n", _EVENTING)["spec"]["clusterIP"]
    for _ in range(3):
        request = urllib.request.Request(
            f"http://{broker}/{NAMESPACE}/default", json.dumps(created["data"]).encode(), dict(again.headers)
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 202
    time.sleep(5)
    assert [each["id"] for each in _events_of(installed, model)] == [each["id"] for each in known]
    assert not _dead(installed, model)


def _create(installed: Installed, made: list[str]) -> str:
    model = f"event-{uuid.uuid4().hex[:8]}"
    folder = min((StandaloneSettings.load(environment()).cache / "models").iterdir()).name
    body = {"id": model, "source_repository": "OBJECT_STORE", "model_file_location": f"pvc://{MODELS}/{folder}"}
    status, answer = installed.call("POST", "/models", body | {"config": {"runtime_config": {"resources": {"gpu": 0}}}})
    assert status == 200, answer
    made.append(model)
    return model


def _status(installed: Installed, model: str) -> str:
    status, answer = installed.call("GET", f"/models/{model}?include_loading_model=true")
    return str(answer["loading_status"]) if status == 200 else f"HTTP {status}"


def _not_loaded(installed: Installed, models: list[str]) -> str | None:
    return ", ".join(each for each in models if _status(installed, each) != "MODEL_LOADING_STATUS_SUCCEEDED") or None


def _dead(installed: Installed, model: str) -> list[Body]:
    """As the operator sees them."""
    listed: list[Body] = json.loads(_llma(installed, "events", "list", "--state", "dead", "-o", "json"))["data"]
    return [each for each in listed if each["subject"] == f"models/{model}"]


def _events_of(installed: Installed, model: str) -> list[Body]:
    status, answer = installed.call("GET", "/events?limit=100")
    assert status == 200, answer
    return [each for each in answer["data"] if each["subject"] == f"models/{model}"]


def _unpublished(installed: Installed) -> set[str]:
    """Models whose creation events the Broker missed."""
    status, answer = installed.call("GET", "/events?state=pending&limit=100")
    assert status == 200, answer
    return {each["data"]["id"] for each in answer["data"] if each["type"] == "ai.llmariner.model.created.v1"}


def _llma(installed: Installed, *words: str) -> str:
    program = Path(sys.executable).with_name("llma")
    variables = {"LLMARINER_BASE_URL": installed.base_url, "LLMARINER_API_KEY": installed.api_key}
    done = subprocess.run(
        [program, *words], env=os.environ | variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _failures(functions: Functions, revision: str) -> int:
    selector = f"--selector=serving.knative.dev/revision={revision}"
    log = kubectl(functions.lab, "logs", "-n", NAMESPACE, selector, "--container=function", "--tail=-1")
    return log.count("a consumer failed")


def _headers(event: Body) -> dict[str, str]:
    said = {"specversion": "1.0", "source": "/llmariner"} | {key: event[key] for key in ("id", "type", "subject")}
    return {f"ce-{name}": value for name, value in said.items()} | {"Content-Type": "application/json"}


def _schedule(installed: Installed, schedule: str) -> None:
    patch = json.dumps({"spec": {"schedule": schedule}})
    kubectl(installed.lab, "patch", "pingsource", "sweep", "-n", NAMESPACE, "--type=merge", "-p", patch)


def _broker_pods(installed: Installed) -> list[Body]:
    pods = get(installed.lab, "pods", "-n", _EVENTING, "-l", "eventing.knative.dev/brokerRole=ingress")["items"]
    return [pod for pod in pods if pod["status"]["phase"] == "Running"]


@contextlib.contextmanager
def _no_broker(installed: Installed) -> Iterator[None]:
    """Its ingress has no pods."""
    kubectl(installed.lab, "scale", "-n", _EVENTING, _INGRESS, "--replicas=0")
    try:
        until("no Broker", lambda: "still there" if _broker_pods(installed) else None, seconds=120)
        yield
    finally:
        kubectl(installed.lab, "scale", "-n", _EVENTING, _INGRESS, "--replicas=1")
        kubectl(installed.lab, "rollout", "status", "-n", _EVENTING, _INGRESS, "--timeout=120s", seconds=130)


def _processes(pod: Body, word: str) -> list[int]:
    """A pod's processes on this machine whose command line has a word."""
    uid, found = pod["metadata"]["uid"], []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if uid in (folder / "cgroup").read_text().replace("_", "-") and word in (folder / "cmdline").read_text():
                found.append(int(folder.name))
    return found


def _signal(processes: list[int], number: signal.Signals) -> None:
    for each in processes:
        os.kill(each, number)
