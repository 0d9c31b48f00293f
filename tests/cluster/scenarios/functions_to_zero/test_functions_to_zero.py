"""Every function scales from zero to one, out under load, and back to zero; the latency of that and of Knative."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import statistics
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from llmariner.gateway.authentication.service_tokens import ServiceTokens
from llmariner.gateway.control_plane.http_client import AUDIENCE
from llmariner.manifests.installation import NAMESPACE

from ...lab.kubectl import get
from ...lab.wait import until
from ...platform.installed import Installed
from ..functions import Call, Functions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

ROUNDS = int(os.environ.get("LLMARINER_COLD_STARTS", "3"))
_ZERO_SECONDS = 700
_SCALE_SECONDS = 150
_LOOKS = 200
# These respond before they read a body, so that their requests can't be held open: the load is as fast as they respond.
_SINCE = "start_time=1790000000"
_ASKED_IN_LOOPS = {
    "api-usage": "/v1/api-usage/model-usage-summaries",
    "api-usages": "/v1/api_usages",
    "auth": "/v1/auth/configuration",
    "events": "/v1/events",
    "health": "/health",
    "inference-status": "/v1/inference/status",
    "organization-audit-logs": "/v1/organization/audit_logs",
    "organization-costs": f"/v1/organization/costs?{_SINCE}",
    "organization-usage": f"/v1/organization/usage/completions?{_SINCE}",
    "users": "/v1/users",
}
_NO_MODEL = {"model": "no-such-model"}
_TOKEN_PATH = {
    "chat-completions": ("/v1/chat/completions", {**_NO_MODEL, "messages": [{"role": "user", "content": "x"}]}),
    "completions": ("/v1/completions", {**_NO_MODEL, "prompt": "x"}),
    "detokenize": ("/v1/detokenize", {**_NO_MODEL, "tokens": [1]}),
    "embeddings": ("/v1/embeddings", {**_NO_MODEL, "input": "x"}),
    "rerank": ("/v1/rerank", {**_NO_MODEL, "query": "x", "documents": ["x"]}),
    "tokenize": ("/v1/tokenize", {**_NO_MODEL, "prompt": "x"}),
}
_READ = {
    **_ASKED_IN_LOOPS,
    "api-keys": "/v1/api_keys",
    "budgets": "/v1/budgets",
    "limits": "/v1/limits",
    "models": "/v1/models",
    "organization-admin-api-keys": "/v1/organization/admin_api_keys",
    "organization-groups": "/v1/organization/groups",
    "organization-invites": "/v1/organization/invites",
    "organization-projects": "/v1/organization/projects",
    "organization-roles": "/v1/organization/roles",
    "organization-sign-in": "/v1/organization/sign_in/group_roles",
    "organization-spend-alerts": "/v1/organization/spend_alerts",
    "organization-users": "/v1/organization/users",
    "organizations": "/v1/organizations",
    "prices": "/v1/prices",
}
# Of a missing project, or of a missing limit.
_NOT_FOUND = {
    "organization-projects-rate-limits": "/v1/organization/projects/proj_none/rate_limits",
    "organization-projects-spend-alerts": "/v1/organization/projects/proj_none/spend_alerts",
    "organization-projects-spend-limit": "/v1/organization/projects/proj_none/spend_limit",
    "organization-spend-limit": "/v1/organization/spend_limit",
    "projects": "/v1/projects/proj_none/roles",
}


@pytest.fixture(scope="module")
def functions(installed: Installed) -> Functions:
    return Functions(installed)


def test_every_function_responds_from_zero(functions: Functions) -> None:
    names = set(_expected(functions))
    assert functions.services().keys() == names
    print("\nfirst answer from zero, with whatever else had to wake for it\n")
    for name in _as_they_reach_zero(functions, names):
        call, status = _expected(functions)[name]
        public = name in {**_READ, **_NOT_FOUND, **_TOKEN_PATH, "invitations": ""}
        answer = functions.ask_gateway(call) if public else functions.ask(name, call)
        assert answer.status == status, f"{name}: {answer}"
        print(f"  {name:18} {answer.seconds:6.2f} s")


def test_cold_starts(functions: Functions) -> None:
    found: dict[str, list[float]] = {name: [] for name in functions.services()}
    for name in _as_they_reach_zero(functions, set(found), ROUNDS):
        answer = functions.ask(name, Call())
        assert answer.status == 200, f"{name}: {answer}"
        found[name].append(answer.seconds)
        print(f"  {name:18} {answer.seconds:6.2f} s")
    print(f"\ncold start: activator, scheduling, container, imports, first answer; {ROUNDS} each\n")
    print("  function            median    least     most")
    for name, seconds in sorted(found.items()):
        print(f"  {name:18} {statistics.median(seconds):6.2f} s {min(seconds):6.2f} s {max(seconds):6.2f} s")


def test_every_function_scales_out_under_load_and_back_to_zero(functions: Functions) -> None:
    most: dict[str, int] = {}
    expected = _expected(functions)
    # One at a time: a small node has no room for two copies of each.
    for name, (call, _) in sorted(expected.items()):
        path = _ASKED_IN_LOOPS.get(name)
        with _loops(functions, name, path) if path else _held(functions, name, call):
            _watch(functions, name, most)
    print(f"\nmost copies of each: {most}")
    assert sorted(_as_they_reach_zero(functions, set(expected))) == sorted(expected)


def test_latency_that_knative_adds(functions: Functions) -> None:
    print(f"\nwarm, one request after the other, {_LOOKS} each, GET /health/live\n")
    print("  function           way                          median      p95")
    for name in ("chat-completions", "health"):
        assert functions.ask(name, Call()).status == 200
        time.sleep(15)  # until the activator has left the way of those functions that it may leave
        pod = str(functions.pod(name)["status"]["podIP"])
        host = f"{name}.{NAMESPACE}.svc.cluster.local"
        ways = {
            "pod": (pod, 8080, host),
            "queue-proxy, pod": (pod, 8012, host),
            "local gateway, ..., pod": (functions.local_gateway, 80, host),
        }
        if name == "health":
            ways["Gateway, local gateway, ..., pod"] = (functions.gateway, 80, "api.llmariner.test")
        taken = {way: _timed(*place) for way, place in ways.items()}
        for way, times in taken.items():
            median, late = statistics.median(times), statistics.quantiles(times, n=20)[-1]
            print(f"  {name:18} {way:32} {median * 1e3:6.2f} ms {late * 1e3:6.2f} ms")
        assert statistics.median(taken["pod"]) < statistics.median(taken["local gateway, ..., pod"]) < 0.1


# Consumers by the change that they wait for.
_OF_VECTOR_STORES = {
    "document-indexer": "file.parsed",
    "document-parser": "file.created",
    "vector-store-attributes": "file.updated",
    "vector-store-file-removal": "file.deleted",
    "vector-store-rebuild": "rebuild_requested",
    "vector-store-removal": "deleted",
}


def _expected(functions: Functions) -> dict[str, tuple[Call, int]]:
    """A request to each function and its expected status; valid for a minute."""
    asked = {name: (Call("GET", path), 200) for name, path in _READ.items()}
    asked |= {name: (Call("GET", path), 404) for name, path in _NOT_FOUND.items()}
    asked |= {name: (Call("POST", path, {}, body), 404) for name, (path, body) in _TOKEN_PATH.items()}
    asked |= {
        "invitations": (Call("POST", "/v1/invitations:accept", {}, {"token": "none"}), 404),
        "model-adoption": (_event("dev.knative.apiserver.ref.add", {"name": "no-such-model"}), 204),
        "dead-letters": (Call("POST", "/model_loader", {}, {}), 400),
        "internal-gateway": (_signed(functions), 200),
        # Events that the platform did not write.
        "group-settlement": (_event("ai.llmariner.group_role.changed.v1", {"id": "no-such-role"}), 400),
        "model-loader": (_event("ai.llmariner.model.created.v1", {"id": "no-such-model", "project_id": None}), 400),
        "model-retirement": (
            _event(
                "ai.llmariner.model.deleted.v1", {"id": "no-such-model", "project_id": None, "folder": "hf://no/model"}
            ),
            400,
        ),
        "sweep": (_event("ai.llmariner.platform.tick.v1", {"every_seconds": 300}), 204),
        "vector-store-upkeep": (_event("ai.llmariner.platform.tick.v1", {"every_seconds": 60}), 204),
    }
    for consumer, change in _OF_VECTOR_STORES.items():
        asked[consumer] = (_event(f"ai.llmariner.vector_store.{change}.v1", {"id": "no-such-id"}), 400)
    return asked


def _as_they_reach_zero(functions: Functions, names: set[str], times: int = 1) -> Iterator[str]:
    """Each function so many times, at moments when it has no pod. Fails with those that keep one."""
    left, limit = dict.fromkeys(names, times), time.monotonic() + _ZERO_SECONDS * times
    while left:
        assert time.monotonic() < limit, f"not at zero so often within {_ZERO_SECONDS * times} s: {left}"
        resting = left.keys() - functions.pods().keys()
        if not resting:
            time.sleep(1)
            continue
        # One at a time: two that start together would each take the other's CPU.
        name = min(resting)
        left[name] -= 1
        if not left[name]:
            del left[name]
        yield name


def _watch(functions: Functions, name: str, most: dict[str, int]) -> None:
    def missing() -> str | None:
        most[name] = max(most.get(name, 0), len(functions.pods().get(name, ())))
        return None if most[name] > 1 else f"{most[name]}"

    until(f"copies of {name}", missing, seconds=_SCALE_SECONDS)


@contextlib.contextmanager
def _held(functions: Functions, name: str, call: Call) -> Iterator[None]:
    """As many requests as one copy takes, whose bodies don't come: they cost no CPU."""
    host = f"{name}.{NAMESPACE}.svc.cluster.local"
    headers = {"Authorization": f"Bearer {functions.key}", **call.headers}
    head = f"{call.method} {call.path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 64\r\n"
    head += "".join(f"{key}: {value}\r\n" for key, value in headers.items()) + "\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(_concurrency(functions, name)):
            one = stack.enter_context(socket.create_connection((functions.local_gateway, 80), timeout=60))
            one.sendall(head.encode())
        yield


@contextlib.contextmanager
def _loops(functions: Functions, name: str, path: str) -> Iterator[None]:
    """As many callers as one copy takes, each sending its next request as soon as it was answered."""
    ended, bad = threading.Event(), list[int]()
    headers = {"Authorization": f"Bearer {functions.key}"}

    def ask() -> None:
        while not ended.is_set():
            status = functions.ask(name, Call("GET", path, headers)).status
            if status != 200:
                bad.append(status)

    threads = [threading.Thread(target=ask) for _ in range(_concurrency(functions, name))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not bad, f"{name} answered {bad[:5]} under load"


def _concurrency(functions: Functions, name: str) -> int:
    return int(functions.services()[name]["spec"]["template"]["spec"]["containerConcurrency"])


def _timed(address: str, port: int, host: str) -> list[float]:
    """Seconds of each answer over one connection, which a few requests have warmed."""
    times = []
    with contextlib.closing(http.client.HTTPConnection(address, port, timeout=30)) as connection:
        for _ in range(_LOOKS + 20):
            began = time.perf_counter()
            connection.request("GET", "/health/live", headers={"Host": host})
            response = connection.getresponse()
            response.read()
            assert response.status == 200
            times.append(time.perf_counter() - began)
    return times[20:]


def _event(type_: str, data: dict[str, object]) -> Call:
    headers = {
        "ce-specversion": "1.0",
        "ce-id": f"evt_{uuid.uuid4().hex}",
        "ce-source": "/llmariner",
        "ce-type": type_,
        "ce-subject": "scenarios",
    }
    return Call("POST", "/", headers, data)


def _signed(functions: Functions) -> Call:
    data = get(functions.lab, "secret", "llmariner-secrets", "-n", NAMESPACE)["data"]
    secret = base64.b64decode(data["LLMARINER_SERVICE_SECRET"]).decode()
    token = ServiceTokens(secret, issuer="scenarios", audience=AUDIENCE).token()
    return Call("POST", "/internal/gateway/model", {"Authorization": f"Bearer {token}"}, {"model": "no-such-model"})
