"""Each function responds alike under functions-framework, under its image's server, and in the standalone mode."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .declared_routes import CLUSTER_LOCAL, FUNCTIONS, TOKEN_PATH, UNAUTHENTICATED
from .http_calls import HttpRequest, HttpResponse, InProcessClient, send_over_http
from .installation import Installation
from .processes import CHECKOUT, boot_command, framework_command, process
from .training_jobs import GRADER

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "say it"}], "max_tokens": 3}
SPENDING = {"currency": "USD", "interval": "month", "threshold_amount": 10**9}
HEARTBEAT = {"protocol_version": 1, "agent_version": "0.4.0", "sent_at": 1.5}
REAL = {
    "api_keys": HttpRequest("GET", "/v1/api_keys"),
    "api_usage": HttpRequest("GET", "/v1/api-usage/model-usage-summaries"),
    "api_usages": HttpRequest("GET", "/v1/api_usages", query="start_time=0&end_time=10"),
    "auth": HttpRequest("GET", "/v1/auth/configuration"),
    "budgets": HttpRequest("GET", "/v1/budgets"),
    "chat_completions": HttpRequest("POST", "/v1/chat/completions", CHAT),
    "clusters": HttpRequest("GET", "/v1/clusters"),
    "clustertelemetry": HttpRequest("GET", "/v1/clustertelemetry/clustersnapshots", query="filter.end_timestamp=5"),
    "clusters_agent": HttpRequest("POST", "/v1/clusters/agent/heartbeats", HEARTBEAT),
    "completions": HttpRequest("POST", "/v1/completions", {"model": "tiny", "prompt": "say it", "max_tokens": 3}),
    "detokenize": HttpRequest("POST", "/v1/detokenize", {"model": "tiny", "tokens": []}),
    "organization_quotas": HttpRequest("GET", "/v1/organization/quotas/proj_unknown"),
    "rerank": HttpRequest("POST", "/v1/rerank", {"model": "vectors", "query": "a", "documents": ["a text"]}),
    "embeddings": HttpRequest("POST", "/v1/embeddings", {"model": "vectors", "input": "a text"}),
    "events": HttpRequest("GET", "/v1/events"),
    "files": HttpRequest("GET", "/v1/files"),
    "health": HttpRequest("GET", "/health"),
    "inference_status": HttpRequest("GET", "/v1/inference/status"),
    "internal_gateway": HttpRequest("POST", "/internal/gateway/changes", {"cursor": ""}),
    "invitations": HttpRequest("POST", "/v1/invitations:accept", {"token": "inv-unknown"}),
    "sessions": HttpRequest("GET", "/v1/sessions/unknown/api"),
    "services_notebooks": HttpRequest("GET", "/v1/services/notebooks/nb-unknown/lab"),
    "workspaces_notebooks": HttpRequest("GET", "/v1/workspaces/notebooks"),
    "jobs": HttpRequest("GET", "/v1/jobs/summaries", query="filter.start_timestamp=1&filter.end_timestamp=9"),
    "limits": HttpRequest("GET", "/v1/limits"),
    "models": HttpRequest("GET", "/v1/models"),
    "model_aliases": HttpRequest("GET", "/v1/model_aliases"),
    "organization_audit_logs": HttpRequest("GET", "/v1/organization/audit_logs", query="limit=0"),
    "organization_costs": HttpRequest("GET", "/v1/organization/costs", query="start_time=86400&end_time=86401"),
    "organization_sign_in": HttpRequest("GET", "/v1/organization/sign_in/group_roles"),
    "organizations": HttpRequest("GET", "/v1/organizations"),
    "organization_admin_api_keys": HttpRequest("GET", "/v1/organization/admin_api_keys"),
    "organization_invites": HttpRequest("GET", "/v1/organization/invites"),
    "organization_projects": HttpRequest("GET", "/v1/organization/projects"),
    "organization_projects_rate_limits": HttpRequest("GET", "/v1/organization/projects/{project}/rate_limits"),
    "organization_projects_spend_limit": HttpRequest(
        "POST", "/v1/organization/projects/{project}/spend_limit", SPENDING
    ),
    "organization_projects_spend_alerts": HttpRequest("GET", "/v1/organization/projects/{project}/spend_alerts"),
    "organization_spend_alerts": HttpRequest("GET", "/v1/organization/spend_alerts"),
    "organization_groups": HttpRequest("GET", "/v1/organization/groups"),
    "organization_roles": HttpRequest("GET", "/v1/organization/roles"),
    "organization_spend_limit": HttpRequest("POST", "/v1/organization/spend_limit", SPENDING),
    "organization_users": HttpRequest("GET", "/v1/organization/users"),
    "projects": HttpRequest("GET", "/v1/projects/{project}/roles"),
    "organization_usage": HttpRequest("GET", "/v1/organization/usage/completions", query="start_time=1&end_time=9"),
    "prices": HttpRequest("GET", "/v1/prices"),
    "tokenize": HttpRequest("POST", "/v1/tokenize", {"model": "tiny", "prompt": "say it"}),
    "uploads": HttpRequest(
        "POST",
        "/v1/uploads",
        {"bytes": 1, "filename": "a.txt", "mime_type": "text/plain", "purpose": "user_data"},
    ),
    "users": HttpRequest("GET", "/v1/users:getSelf"),
    "batch_jobs": HttpRequest("GET", "/v1/batch/jobs"),
    "batch_jobs_exec": HttpRequest("POST", "/v1/batch/jobs/bj-1/exec", {"command": []}),
    "batch_jobs_results": HttpRequest("POST", "/v1/batch/jobs/bj-pod/results", {"files": []}),
    "fine_tuning_adapters": HttpRequest("GET", "/v1/fine_tuning/adapters/adapter_config.json"),
    "fine_tuning_checkpoints": HttpRequest("GET", "/v1/fine_tuning/checkpoints/ft:tiny:x/permissions"),
    "fine_tuning_alpha_graders": HttpRequest(
        "POST", "/v1/fine_tuning/alpha/graders/run", {"grader": GRADER, "model_sample": "Arrr!"}
    ),
    "fine_tuning_credentials": HttpRequest("GET", "/v1/fine_tuning/credentials"),
    "model_credentials": HttpRequest("GET", "/v1/model_credentials"),
    "fine_tuning_jobs": HttpRequest("GET", "/v1/fine_tuning/jobs"),
    "fine_tuning_workers": HttpRequest("POST", "/v1/fine_tuning/workers/ftjob-worker/reports", {"records": []}),
    "vector_stores": HttpRequest("GET", "/v1/vector_stores"),
}
VOLATILE = {
    *("id", "created", "created_at", "cursor", "expires_at", "last_used_at", "x_received_headers"),
    # What runs jobs and notebooks says, which the processes of these tests lack: other tests leave some that wait.
    *("environment", "queue", "status_reason"),
    "server_time",
    "execution_time",
}
OF_THE_SERVER = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}


def stable(value: Any) -> Any:
    """Without the values that differ between two responses to the same request."""
    if isinstance(value, dict):
        return {name: stable(item) for name, item in value.items() if name not in VOLATILE}
    return [stable(item) for item in value] if isinstance(value, list) else value


def seen(http_request: HttpRequest, answer: HttpResponse) -> Any:
    """The part of a response that must be the same under every server."""
    # Probes and unknown paths are answered by the first in the path: the router, else the function.
    shared = http_request.path.startswith("/health/") or answer.status == 404
    assert shared or answer.headers["x-request-id"].startswith("req_")
    names = [] if shared else sorted(set(answer.headers) - OF_THE_SERVER)
    return answer.status, answer.headers["content-type"], names, stable(decoded(answer))


def decoded(answer: HttpResponse) -> Any:
    """The body; for a stream its events and its end."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.json
    *events, end, rest = answer.body.split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


# An invitation can be accepted once, there is no checkpoint, only `llma up` and clusters have quotas, and no job runs.
_NOT_FOUND = ("invitations", "fine_tuning_checkpoints", "organization_quotas", "clustertelemetry")
UNLIKE_200 = {
    **dict.fromkeys((*_NOT_FOUND, "sessions", "services_notebooks"), 404),
    "batch_jobs_exec": 400,
}


def questions(name: str, installation: Installation) -> list[tuple[int, HttpRequest]]:
    """Of each function: is it alive, a real request, the same without a key and to an unknown path."""
    real = REAL[name]
    real = replace(real, path=real.path.replace("{project}", installation.owner.project_id))
    headers = {"authorization": f"Bearer {installation.credential(name)}"}
    asked = [
        (200, HttpRequest("GET", "/health/live")),
        (
            UNLIKE_200.get(name, 200),
            HttpRequest(real.method, real.path, real.body, headers, real.query),
        ),
        # Below a cluster's session are paths of Kubernetes' API, of which nobody may call this one.
        (403 if name == "sessions" else 404, HttpRequest("GET", real.path + "/no/such/thing", None, headers)),
    ]
    if name not in ("models", "services_notebooks"):  # there a path below is a model's id, or a notebook's server's
        asked.append((405, HttpRequest("PUT", real.path, real.body, headers)))
    if name in ("chat_completions", "completions"):
        stream = {**real.body, "stream": True, "stream_options": {"include_usage": True}}
        asked.append((200, HttpRequest("POST", real.path, stream, headers)))
    if name not in UNAUTHENTICATED:
        asked.append((401, HttpRequest(real.method, real.path, real.body, {}, real.query)))
    return asked


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_responds_alike_under_every_server(
    name: str, installation: Installation, in_process: InProcessClient, router: Any, control: int, tmp_path: Path
) -> None:
    folder, environment = CHECKOUT / "functions" / name, installation.environment
    if name in TOKEN_PATH:
        environment = installation.token_path(f"http://127.0.0.1:{control}")
    with ExitStack() as children:
        ports = {
            way: children.enter_context(process(command(folder), environment, tmp_path / way))
            for way, command in (("framework", framework_command), ("boot", boot_command))
        }
        for status, http_request in questions(name, installation):
            answers = {way: send_over_http(port, http_request) for way, port in ports.items()}
            if name not in CLUSTER_LOCAL or http_request.path == "/health/live":
                answers["router"] = in_process.send(router, http_request)
            assert [answer.status for answer in answers.values()] == [status] * len(answers), (http_request, answers)
            first, *others = [seen(http_request, answer) for answer in answers.values()]
            for other in others:
                assert other == first, http_request


def test_the_standalone_mode_does_not_serve_internal_routes(
    installation: Installation, in_process: InProcessClient, router: Any
) -> None:
    headers = {"authorization": f"Bearer {installation.service_token}"}
    answer = in_process.send(router, HttpRequest("POST", "/internal/gateway/changes", {"cursor": ""}, headers))
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
