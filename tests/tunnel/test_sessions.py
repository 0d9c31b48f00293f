"""People's requests to a cluster through `functions/sessions` and its agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from llmariner.audit.tables import audit_log
from llmariner.errors import InvalidRequest
from llmariner.sessions.kubernetes_requests import parse_request
from llmariner.sessions.missing_roles import missing_roles
from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.roles.scopes import OWNER_SCOPES

from .installation import Installation, KubernetesApi, Replica, ask, open_exec, running_agent, serving, until


@pytest.fixture
def installation(tmp_path: Path) -> Any:
    made = Installation(tmp_path)
    yield made
    made.context.database.close()


Scenario = Callable[[Replica, KubernetesApi, str], Awaitable[None]]


def run(installation: Installation, scenario: Scenario, api: KubernetesApi | None = None) -> KubernetesApi:
    """Run a scenario with one replica and an agent; its third argument is the session's base path."""
    served = api or KubernetesApi()

    async def whole() -> None:
        async with serving(installation, served) as (replica,), running_agent(installation, served, replica):
            await scenario(replica, served, f"/v1/sessions/{installation.cluster.id}")

    asyncio.run(asyncio.wait_for(whole(), 60))
    return served


def accesses(installation: Installation) -> list[dict[str, Any]]:
    """What the audit log says about requests to clusters."""
    with installation.context.database.read() as session:
        rows = session.rows(select(audit_log.c.payload).where(audit_log.c.type == "cluster.accessed"))
    return [json.loads(row.payload)["data"] for row in rows]


def test_a_request_arrives_as_the_person_with_nothing_of_the_client_but_what_is_listed(
    installation: Installation,
) -> None:
    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        fields = (
            "accept: application/json\r\ncookie: a=b\r\nimpersonate-user: system:admin\r\nx-remote-user: root\r\n"
            "impersonate-group: system:masters\r\nimpersonate-extra-scopes: all\r\nx-forwarded-for: 1.2.3.4\r\n"
        )
        status, body = await ask(
            replica, installation.key, f"{base}/api/v1/namespaces/team/pods?limit=5", fields=fields
        )
        assert (status, body) == (200, b'{"kind":"PodList","items":[]}')

    api = run(installation, scenario)
    (request,) = api.requests
    assert request["target"] == "/api/v1/namespaces/team/pods?limit=5"
    assert sorted(each for each in request["headers"] if each[0] not in ("host", "connection")) == [
        ("accept", "application/json"),
        ("authorization", "Bearer agents-own-token"),
        ("impersonate-extra-llmariner.ai%2fuser", installation.owner.user_id),
        ("impersonate-group", f"llmariner:project:{installation.owner.project_id}:member"),
        ("impersonate-user", "llmariner:session"),
    ]
    assert accesses(installation) == [{"verb": "list", "namespace": "team", "resource": "pods", "name": ""}]


def test_a_watch_streams_and_its_end_reaches_the_api_server(installation: Installation) -> None:
    gate = asyncio.Event()

    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        path = f"{base}/api/v1/namespaces/team/pods?watch=true"
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {installation.key}\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)  # without waiting for an event
        assert b"200 OK" in head
        gate.set()
        await asyncio.wait_for(reader.readuntil(b"first\n"), 10)
        writer.close()
        await until(lambda: api.open == 0)

    api = KubernetesApi()
    api.answers["/api/v1/namespaces/team/pods"] = [b"", gate.wait(), b"first\n", *[bytes(1024 * 1024)] * 64]
    run(installation, scenario, api)


def test_exec_is_a_websocket_from_end_to_end(installation: Installation) -> None:
    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        async with open_exec(replica, installation.key, installation.cluster.id) as websocket:
            assert websocket.subprotocol == "v5.channel.k8s.io"
            for message in (b"\x00ls\n", b"\x01" + bytes(300_000)):
                await websocket.send(message)
                assert await asyncio.wait_for(websocket.recv(), 10) == message
        await until(lambda: api.open == 0)

    (request,) = run(installation, scenario).requests
    assert request["target"] == "/api/v1/namespaces/team/pods/p/exec?command=sh&stdin=true"
    assert dict(request["headers"])["sec-websocket-protocol"] == "v5.channel.k8s.io"
    assert [each["command"] for each in accesses(installation)] == ["sh"]


def test_spdy_bytes_pass_in_both_directions(installation: Installation) -> None:
    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        path = f"{base}/api/v1/namespaces/team/pods/p/portforward"
        writer.write(
            f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {installation.key}\r\nconnection: Upgrade\r\n"
            "upgrade: SPDY/3.1\r\nx-stream-protocol-version: portforward.k8s.io\r\ncontent-length: 0\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 101")
        assert b"upgrade: SPDY/3.1\r\nx-stream-protocol-version: v4.channel.k8s.io" in head
        sent = bytes(range(256)) * 1000
        writer.write(sent)
        assert await asyncio.wait_for(reader.readexactly(len(sent)), 10) == sent
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()

    assert run(installation, scenario).requests[0]["method"] == "POST"


WEBSOCKET = "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"


REFUSED = [
    ("/api/v1/namespaces/kube-system/pods", 404, ""),
    ("/api/v1/namespaces/other/pods", 404, ""),
    ("/api/v1/namespaces/team/../other/pods", 400, ""),
    ("/api/v1/namespaces/team/%2e%2e/other/pods", 400, ""),
    ("/api/v1/namespaces/team%2fpods", 400, ""),
    ("/api/v1/namespaces/team//pods", 400, ""),
    ("/api/v1/namespaces/team/pods/", 400, ""),
    ("//api/v1/namespaces/team/pods", 404, ""),
    ("/api/v1/namespaces/team/pods;a=b", 400, ""),
    ("/api/v1/namespaces/team/pods\\..\\x", 400, ""),
    ("/api/v1/namespaces/team/secrets", 403, ""),
    ("/api/v1/namespaces/team/configmaps", 403, ""),
    ("/api/v1/namespaces/team/pods/p/proxy/x", 403, ""),
    ("/api/v1/namespaces/team/pods/p/proxy", 403, ""),
    ("/api/v1/namespaces/team/services/s/proxy", 403, ""),
    ("/api/v1/namespaces/team", 403, ""),
    ("/api/v1/pods", 403, ""),
    ("/api/v1/nodes", 403, ""),
    ("/api/v1/watch/namespaces/team/pods", 403, ""),
    ("/api/v2/namespaces/team/pods", 403, ""),
    ("/apis/rbac.authorization.k8s.io/v1/clusterroles", 403, ""),
    ("/apis/rbac.authorization.k8s.io/v1/namespaces/team/roles", 403, ""),
    ("/apis/batch/v1/namespaces/team/pods", 403, ""),
    ("/apis/x/v1/namespaces/team/pods/p/exec", 400, ""),
    ("/api/v1/namespaces/team/pods/p/exec", 400, ""),
    ("/api/v1/namespaces/team/pods/p/exec", 400, "upgrade: websocket\r\n"),
    ("/api/v1/namespaces/team/pods/p/exec", 400, "connection: upgrade\r\nupgrade: h2c\r\n"),
    ("/api/v1/namespaces/team/pods", 400, "connection: upgrade\r\n" + WEBSOCKET),
    ("/apis/x/v1/namespaces/team/pods/p/exec", 403, "connection: upgrade\r\n" + WEBSOCKET),
    ("/api/v1/namespaces/team/services/p/exec", 403, "connection: upgrade\r\n" + WEBSOCKET),
    ("/api/v1/namespaces/team/pods", 400, f"user-agent: {'x' * 5000}\r\n"),
    ("/api/v1/namespaces/team/pods", 400, f"accept: {'x' * 4000}\r\n" * 14 + "accept: a\r\n" * 230),
]


def test_what_is_not_the_projects_stays_out_of_reach(installation: Installation) -> None:
    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        for path, status, fields in REFUSED:
            found, body = await ask(replica, installation.key, base + path, fields=fields)
            assert found == status, (path, body)
            assert json.loads(body)["error"]["message"]

    assert run(installation, scenario).requests == []


@pytest.mark.parametrize(
    ("query", "verb"),
    [
        ("watch=t", "watch"),
        ("watch=", "watch"),
        ("w%61tch=1", "watch"),
        ("watch=0&watch=1", "list"),
        ("a=watch=1", "list"),
    ],
)
def test_the_audit_log_says_watch_where_kubernetes_watches(query: str, verb: str) -> None:
    path = b"/v1/sessions/cluster-1/api/v1/namespaces/team/pods"
    assert parse_request("GET", path, query.encode()).verb == verb


def test_a_token_among_the_subprotocols_stays_with_the_platform(installation: Installation) -> None:
    token = "base64url.bearer.authorization.k8s.io.c2VjcmV0"

    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        fields = f"connection: upgrade\r\n{WEBSOCKET}sec-websocket-protocol: {token}, v5.channel.k8s.io\r\n"
        path = f"{base}/api/v1/namespaces/team/pods/p/exec"
        head = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {installation.key}\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        writer.write(f"{head}{fields}\r\n".encode())
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 101")
        writer.close()
        await until(lambda: api.open == 0)

    (request,) = run(installation, scenario).requests
    assert [value for name, value in request["headers"] if name == "sec-websocket-protocol"] == ["v5.channel.k8s.io"]


def test_a_viewer_reads_and_opens_nothing_and_others_see_no_cluster(installation: Installation) -> None:
    outsider = installation.outsider_key()

    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        pods, exec_ = f"{base}/api/v1/namespaces/team/pods", f"{base}/api/v1/namespaces/team/pods/p/exec"
        upgrade = "connection: upgrade\r\n" + WEBSOCKET
        assert (await ask(replica, installation.viewer_key, pods))[0] == 200
        assert (await ask(replica, installation.viewer_key, exec_, fields=upgrade))[0] == 403
        assert (await ask(replica, installation.viewer_key, pods, method="POST", body=b"{}"))[0] == 403
        assert (await ask(replica, installation.key, pods, method="POST", body=b"{}"))[0] == 403
        assert (await ask(replica, installation.key, base + "/apis/batch/v1", method="POST", body=b"{}"))[0] == 405
        assert (await ask(replica, installation.key, pods, method="DELETE"))[0] == 405
        assert (await ask(replica, outsider, pods))[0] == 404
        assert (await ask(replica, "sk-wrong", pods))[0] == 401
        assert (await ask(replica, installation.registration_key, pods))[0] == 401
        assert (await ask(replica, installation.key, "/v1/sessions/agent", fields=upgrade))[0] == 401
        assert (await ask(replica, installation.key, "/v1/sessions/peers", fields=upgrade))[0] == 401
        assert (await ask(replica, installation.registration_key, "/v1/sessions/agent"))[0] == 400

    api = run(installation, scenario)
    (request,) = api.requests
    assert ("impersonate-group", f"llmariner:project:{installation.owner.project_id}:viewer") in request["headers"]


def test_bytes_behind_an_upgrade_never_reach_the_cluster(installation: Installation) -> None:
    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        path = f"{base}/api/v1/namespaces/team/pods/p/exec"
        head = f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {installation.key}\r\nconnection: upgrade\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        writer.write((head + WEBSOCKET + "\r\n").encode() + b"GET /api/v1/secrets HTTP/1.1\r\n")
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert answer.startswith(b"HTTP/1.1 400")
        writer.close()
        await until(lambda: api.open == 0)

    run(installation, scenario)


def test_a_cluster_without_an_agent_is_unavailable_and_a_revoked_key_is_out_in_five_seconds(
    installation: Installation,
) -> None:
    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        pods = f"{base}/api/v1/namespaces/team/pods"
        assert (await ask(replica, installation.key, pods))[0] == 200
        async with open_exec(replica, installation.key, installation.cluster.id) as websocket:
            await websocket.send(b"x")
            await websocket.recv()
            installation.clusters.revoke_key(installation.caller, installation.cluster.id, operator=True)
            began = asyncio.get_running_loop().time()
            await asyncio.wait_for(websocket.wait_closed(), 10)
            assert asyncio.get_running_loop().time() - began < 5
        status, body = await ask(replica, installation.key, pods)
        assert status == 503
        assert json.loads(body)["error"]["code"] == "cluster_not_connected"
        assert json.loads(body)["kind"] == "Status"

    run(installation, scenario)


def test_the_namespaces_of_the_clusters_own_parts_can_not_be_assigned(installation: Installation) -> None:
    names = (
        "kube-system",
        "default",
        "llmariner",
        "llmariner-jobs",
        "knative-serving",
        "istio-system",
        "kourier-system",
    )
    installation.assign([{"cluster_id": "", "namespace": name, "queue": "", "node_selector": []} for name in names])

    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        for name in names:
            assert (await ask(replica, installation.key, f"{base}/api/v1/namespaces/{name}/pods"))[0] == 404

    run(installation, scenario)


def test_open_requests_end_once_their_caller_may_send_them_no_more(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmariner.sessions.access_checks._CHECK_SECONDS", 0.2)
    keys, owner = installation.context.keys, installation.owner
    gate = asyncio.Event()
    lent, lent_key = keys.create(owner, NewKey("lent", scopes=OWNER_SCOPES))

    async def scenario(replica: Replica, api: KubernetesApi, base: str) -> None:
        id_ = installation.cluster.id
        async with (
            open_exec(replica, lent_key, id_) as ended,
            open_exec(replica, installation.key, id_) as kept,
        ):
            watch = asyncio.create_task(ask(replica, lent_key, f"{base}/api/v1/namespaces/team/pods?watch=true"))
            await until(lambda: api.open == 3)
            keys.revoke(owner, lent.id)
            await asyncio.wait_for(ended.wait_closed(), 10)
            assert (await asyncio.wait_for(watch, 10))[0] == 200  # what came before; its end is missing
            await kept.send(b"still here")
            assert await asyncio.wait_for(kept.recv(), 10) == b"still here"
            installation.assign([])
            await asyncio.wait_for(kept.wait_closed(), 10)
        gate.set()
        await until(lambda: api.open == 0)

    api = KubernetesApi()
    api.answers["/api/v1/namespaces/team/pods"] = [b"{}", gate.wait(), b"{}"]
    run(installation, scenario, api)


@pytest.mark.parametrize(
    ("query", "command"),
    [
        (b"command=rm&command=-rf&command=%2Ftmp%2Fa+b&container=c", "rm -rf '/tmp/a b'"),
        (b"command=echo&command=%1b%5b2J%0a", "echo '\ufffd[2J\ufffd'"),
        (b"command=" + b"x" * 3000, "x" * 999 + "\u2026"),
        (b"command=%ff&command=", "'\ufffd' ''"),
        (b"stdin=true", ""),
    ],
)
def test_the_command_of_exec_is_legible_in_the_audit_log(query: bytes, command: str) -> None:
    path = b"/v1/sessions/cluster-1/api/v1/namespaces/team/pods/p/exec"
    assert parse_request("GET", path, query).command == command


@pytest.mark.parametrize("query", [b"command=true;&command=rm", b"command=true%zz&command=rm", b"command=rm&x=%2"])
def test_what_kubernetes_reads_otherwise_than_the_audit_log_is_refused(query: bytes) -> None:
    path = b"/v1/sessions/cluster-1/api/v1/namespaces/team/pods/p/exec"
    with pytest.raises(InvalidRequest) as refused:
        parse_request("GET", path, query)
    assert refused.value.code == "invalid_query"


def test_a_cluster_without_the_roles_of_a_project_says_what_to_apply() -> None:
    def status(kind: str, message: str) -> bytes:
        return json.dumps({"kind": "Status", "message": message, "details": {"kind": kind}, "code": 403}).encode()

    refused = 'groups "g" is forbidden: User "a" cannot impersonate resource "groups" in API group ""'
    error = missing_roles(status("groups", refused), "proj_1", {"team-b", "team-a"})
    assert error is not None
    assert "llma admin clusters permissions proj_1=team-a proj_1=team-b | kubectl apply -f -" in error.message
    for body in (status("pods", 'pods is forbidden: User "llmariner:session" cannot list'), b"no json", b"[]", b"{}"):
        assert missing_roles(body, "proj_1", {"team"}) is None
