"""Each function answers the same under functions-framework, under its image's server, and in the local home."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from .asking import Answer, InProcess, Question, over_http
from .children import CHECKOUT, boot, framework, process
from .declared import FUNCTIONS, OPEN, TOKEN_PATH
from .installation import Installation

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "say it"}], "max_tokens": 3}
SPENDING = {"currency": "USD", "interval": "month", "threshold_amount": 10**9}
REAL = {
    "api_keys": Question("GET", "/v1/api_keys"),
    "api_usage": Question("GET", "/v1/api-usage/model-usage-summaries"),
    "api_usages": Question("GET", "/v1/api_usages", query="start_time=0&end_time=10"),
    "auth": Question("GET", "/v1/auth/configuration"),
    "budgets": Question("GET", "/v1/budgets"),
    "chat_completions": Question("POST", "/v1/chat/completions", CHAT),
    "completions": Question("POST", "/v1/completions", {"model": "tiny", "prompt": "say it", "max_tokens": 3}),
    "detokenize": Question("POST", "/v1/detokenize", {"model": "tiny", "tokens": []}),
    "embeddings": Question("POST", "/v1/embeddings", {"model": "vectors", "input": "a text"}),
    "events": Question("GET", "/v1/events"),
    "health": Question("GET", "/health"),
    "inference_status": Question("GET", "/v1/inference/status"),
    "internal_gateway": Question("POST", "/internal/gateway/changes", {"cursor": ""}),
    "invitations": Question("POST", "/v1/invitations:accept", {"token": "inv-unknown"}),
    "limits": Question("GET", "/v1/limits"),
    "models": Question("GET", "/v1/models"),
    "organization_audit_logs": Question("GET", "/v1/organization/audit_logs", query="limit=0"),
    "organization_costs": Question("GET", "/v1/organization/costs", query="start_time=86400&end_time=86401"),
    "organization_sign_in": Question("GET", "/v1/organization/sign_in/group_roles"),
    "organizations": Question("GET", "/v1/organizations"),
    "organization_admin_api_keys": Question("GET", "/v1/organization/admin_api_keys"),
    "organization_invites": Question("GET", "/v1/organization/invites"),
    "organization_projects": Question("GET", "/v1/organization/projects"),
    "organization_projects_rate_limits": Question("GET", "/v1/organization/projects/{project}/rate_limits"),
    "organization_projects_spend_limit": Question("POST", "/v1/organization/projects/{project}/spend_limit", SPENDING),
    "organization_projects_spend_alerts": Question("GET", "/v1/organization/projects/{project}/spend_alerts"),
    "organization_spend_alerts": Question("GET", "/v1/organization/spend_alerts"),
    "organization_groups": Question("GET", "/v1/organization/groups"),
    "organization_roles": Question("GET", "/v1/organization/roles"),
    "organization_spend_limit": Question("POST", "/v1/organization/spend_limit", SPENDING),
    "organization_users": Question("GET", "/v1/organization/users"),
    "projects": Question("GET", "/v1/projects/{project}/roles"),
    "organization_usage": Question("GET", "/v1/organization/usage/completions", query="start_time=1&end_time=9"),
    "prices": Question("GET", "/v1/prices"),
    "tokenize": Question("POST", "/v1/tokenize", {"model": "tiny", "prompt": "say it"}),
    "users": Question("GET", "/v1/users:getSelf"),
}
VOLATILE = {"id", "created", "cursor", "last_used_at", "x_received_headers"}
OF_THE_SERVER = {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"}


def stable(value: Any) -> Any:
    """Without what differs between two answers to the same question."""
    if isinstance(value, dict):
        return {name: stable(item) for name, item in value.items() if name not in VOLATILE}
    return [stable(item) for item in value] if isinstance(value, list) else value


def seen(question: Question, answer: Answer) -> Any:
    """What a caller must find the same wherever a function runs."""
    # Probes and unknown paths are answered by whoever comes first: the function, or the router before it.
    shared = question.path.startswith("/health/") or answer.status == 404
    assert shared or answer.headers["x-request-id"].startswith("req_")
    names = [] if shared else sorted(set(answer.headers) - OF_THE_SERVER)
    return answer.status, answer.headers["content-type"], names, stable(decoded(answer))


def decoded(answer: Answer) -> Any:
    """The body; of a stream its events, and how it ends."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return answer.json
    *events, end, rest = answer.body.split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def questions(name: str, installation: Installation) -> list[tuple[int, Question]]:
    """Of each function: is it alive, a real request, the same without a key and to an unknown path."""
    real = REAL[name]
    real = replace(real, path=real.path.replace("{project}", installation.owner.project_id))
    secret = installation.service_token if name == "internal_gateway" else installation.keys.admin
    headers = {"authorization": f"Bearer {secret}"}
    asked = [
        (200, Question("GET", "/health/live")),
        # An invitation can be accepted once.
        (404 if name == "invitations" else 200, Question(real.method, real.path, real.body, headers, real.query)),
        (404, Question("GET", real.path + "/no/such/thing", None, headers)),
    ]
    if name != "models":  # there a path below is a model's id
        asked.append((405, Question("PUT", real.path, real.body, headers)))
    if name in ("chat_completions", "completions"):
        stream = {**real.body, "stream": True, "stream_options": {"include_usage": True}}
        asked.append((200, Question("POST", real.path, stream, headers)))
    if name not in OPEN:
        asked.append((401, Question(real.method, real.path, real.body, {}, real.query)))
    return asked


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_answers_the_same_wherever_it_runs(
    name: str, installation: Installation, in_process: InProcess, router: Any, control: int, tmp_path: Path
) -> None:
    folder, environment = CHECKOUT / "functions" / name, installation.environment
    if name in TOKEN_PATH:
        environment = installation.token_path(f"http://127.0.0.1:{control}")
    with ExitStack() as children:
        ports = {
            way: children.enter_context(process(command(folder), environment, tmp_path / way))
            for way, command in (("framework", framework), ("boot", boot))
        }
        for status, question in questions(name, installation):
            answers = {way: over_http(port, question) for way, port in ports.items()}
            if name != "internal_gateway" or question.path == "/health/live":
                answers["router"] = in_process.ask(router, question)
            assert [answer.status for answer in answers.values()] == [status] * len(answers), (question, answers)
            first, *others = [seen(question, answer) for answer in answers.values()]
            for other in others:
                assert other == first, question


def test_the_local_home_does_not_serve_what_only_functions_call(
    installation: Installation, in_process: InProcess, router: Any
) -> None:
    headers = {"authorization": f"Bearer {installation.service_token}"}
    answer = in_process.ask(router, Question("POST", "/internal/gateway/changes", {"cursor": ""}, headers))
    assert (answer.status, answer.error["code"]) == (404, "unknown_url")
