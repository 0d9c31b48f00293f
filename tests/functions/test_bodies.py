"""Invalid bodies and queries: the error of each route, and the field that it names."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Ask
from .declared_routes import ROUTES, TOKEN_PATH
from .http_calls import HttpRequest, HttpResponse, assert_error
from .installation import Installation
from .training_jobs import GRADER

MESSAGES = [{"role": "user", "content": "hello"}]
ALERT = {
    "currency": "USD",
    "interval": "month",
    "threshold_amount": 10**9,
    "notification_channel": {"type": "email", "recipients": ["made@example.org"]},
}
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "POST /v1/chat/completions": ("chat_completions", {"model": "unknown", "messages": MESSAGES}),
    "POST /v1/completions": ("completions", {"model": "unknown", "prompt": "x"}),
    "POST /v1/embeddings": ("embeddings", {"model": "unknown", "input": "x"}),
    "POST /v1/rerank": ("rerank", {"model": "unknown", "query": "x", "documents": ["y"]}),
    "POST /v1/tokenize": ("tokenize", {"model": "unknown", "prompt": "x"}),
    "POST /v1/detokenize": ("detokenize", {"model": "unknown", "tokens": [1]}),
    "POST /v1/models": ("models", {"source_repository": "LOCAL", "id": "made"}),
    "PATCH /v1/models/tiny": ("models", {"config": {}, "update_mask": "config"}),
    "POST /v1/model_aliases": ("model_aliases", {"alias": "made", "model": "unknown"}),
    "PATCH /v1/model_aliases/bot": ("model_aliases", {"model": "tiny", "reason": "because"}),
    "POST /v1/model_aliases/bot/rollback": ("model_aliases", {}),
    "POST /v1/files:createFromObjectPath": ("files", {"object_path": "s3://walk/unknown", "purpose": "user_data"}),
    "POST /v1/files/file-1/links": ("files", {"expires_in_seconds": 60}),
    "POST /v1/files:createUploadLink": ("files", {"filename": "made.txt", "purpose": "user_data"}),
    "POST /v1/api_keys": ("api_keys", {"name": "made"}),
    "PATCH /v1/api_keys/key_1": ("api_keys", {"name": "made"}),
    "POST /v1/api_keys/key_1:rotate": ("api_keys", {}),
    "POST /v1/invitations:accept": ("invitations", {"token": "inv-unknown"}),
    "POST /v1/budgets": (
        "budgets",
        {"subject": "organization", "subject_id": "unknown", "period": "day", "amount": 5},
    ),
    "POST /v1/budgets/budget_1": ("budgets", {"amount": 5}),
    "POST /v1/limits": ("limits", {"subject": "user", "subject_id": "unknown", "requests_per_day": 9}),
    "POST /v1/limits/limit_1": ("limits", {"requests_per_day": 9}),
    "POST /v1/organization/projects/SPARE/rate_limits/rl-1": (
        "organization_projects_rate_limits",
        {"max_requests_per_1_minute": 9},
    ),
    "POST /v1/organization/projects/SPARE/spend_limit": (
        "organization_projects_spend_limit",
        {"currency": "USD", "interval": "month", "threshold_amount": 10**9},
    ),
    "POST /v1/organization/quotas/SPARE": ("organization_quotas", {"gpu": {"nominal": 4, "borrowing_limit": None}}),
    "POST /v1/organization/spend_limit": (
        "organization_spend_limit",
        {"currency": "USD", "interval": "month", "threshold_amount": 10**9},
    ),
    "POST /v1/organization/projects/SPARE/spend_alerts": ("organization_projects_spend_alerts", ALERT),
    "POST /v1/organization/projects/SPARE/spend_alerts/alert_1": ("organization_projects_spend_alerts", ALERT),
    "POST /v1/organization/spend_alerts": ("organization_spend_alerts", ALERT),
    "POST /v1/organization/spend_alerts/alert_1": ("organization_spend_alerts", ALERT),
    "POST /v1/organization/groups": ("organization_groups", {"name": "made"}),
    "POST /v1/organization/groups/group_1": ("organization_groups", {"name": "made"}),
    "POST /v1/organization/groups/group_1/users": ("organization_groups", {"user_id": "user_1"}),
    "POST /v1/organization/groups/group_1/roles": ("organization_groups", {"role_id": "reader"}),
    "POST /v1/organization/projects/SPARE/groups": (
        "organization_projects",
        {"group_id": "group_1", "role": "member"},
    ),
    "POST /v1/projects/SPARE/groups/group_1/roles": ("projects", {"role_id": "member"}),
    "POST /v1/organization/admin_api_keys": ("organization_admin_api_keys", {"name": "made"}),
    "POST /v1/organization/invites": ("organization_invites", {"email": "asked@example.org", "role": "owner"}),
    "POST /v1/organization/projects": ("organization_projects", {"name": "made"}),
    "POST /v1/organization/projects/SPARE": ("organization_projects", {"name": "Spare"}),
    "POST /v1/organization/projects/SPARE/model_permissions": (
        "organization_projects",
        {"mode": "deny_list", "model_ids": ["x"]},
    ),
    "POST /v1/organization/projects/SPARE/users": ("organization_projects", {"user_id": "user_1", "role": "member"}),
    "POST /v1/organization/projects/SPARE/users/user_1": ("organization_projects", {"role": "member"}),
    "POST /v1/organization/projects/SPARE/service_accounts": ("organization_projects", {"name": "made"}),
    "POST /v1/organization/projects/SPARE/service_accounts/user_1": ("organization_projects", {"name": "made"}),
    "POST /v1/organization/projects/SPARE/service_accounts/user_1/api_keys": (
        "organization_projects",
        {"name": "made"},
    ),
    "POST /v1/organization/projects/SPARE/api_keys": ("organization_projects", {"name": "made here"}),
    "POST /v1/organization/projects/SPARE/api_keys/key_1": ("organization_projects", {"scopes": ["api.files.read"]}),
    "POST /v1/organization/roles": ("organization_roles", {"role_name": "made", "permissions": ["api.files.read"]}),
    "POST /v1/organization/roles/role_1": ("organization_roles", {"role_name": "made"}),
    "POST /v1/organization/sign_in/group_roles": ("organization_sign_in", {"group": "made", "role": "reader"}),
    "POST /v1/organization/users/user_1": ("organization_users", {"role": "reader"}),
    "POST /v1/organization/users/user_1/roles": ("organization_users", {"role_id": "reader"}),
    "POST /v1/projects/SPARE/roles": ("projects", {"role_name": "made", "permissions": ["api.files.read"]}),
    "POST /v1/projects/SPARE/roles/role_1": ("projects", {"role_name": "made"}),
    "POST /v1/projects/SPARE/users/user_1/roles": ("projects", {"role_id": "member"}),
    "POST /v1/organizations": ("organizations", {"title": "made"}),
    "POST /v1/organizations/HERE/users": ("organizations", {"user_id": "made@example.org", "role": "reader"}),
    "POST /v1/organizations/HERE/projects": ("organizations", {"title": "made"}),
    "PATCH /v1/organizations/HERE/projects/SPARE": ("organizations", {"title": "Spare"}),
    "POST /v1/organizations/HERE/projects/MINE/users": (
        "organizations",
        {"user_id": "admin@localhost", "role": "member"},
    ),
    "POST /v1/organizations/HERE/projects/MINE/api_keys": ("organizations", {"name": "made there"}),
    "POST /v1/uploads": (
        "uploads",
        {"bytes": 5, "filename": "made.txt", "mime_type": "text/plain", "purpose": "user_data"},
    ),
    "POST /v1/uploads/upload_1/complete": ("uploads", {"part_ids": ["part_1"]}),
    "POST /v1/prices": ("prices", {"model": "made", "prompt": 1, "completion": 1}),
    "POST /v1/prices/charge": ("prices", {"charge": "both"}),
    "POST /v1/prices/compute": ("prices", {"device": "made", "gpu_hour": 1}),
    "POST /v1/batch/jobs": (
        "batch_jobs",
        {"image": "pytorch-2.1", "command": "sh scripts/run.sh", "scripts": {"run.sh": "ZWNobyBoaQ=="}},
    ),
    "POST /v1/batch/jobs/bj-pod/results": ("batch_jobs_results", {"files": [], "left_out": ""}),
    "POST /v1/batch/jobs/bj-1/exec": ("batch_jobs_exec", {"command": ["ls"]}),
    "POST /v1/workspaces/notebooks": ("workspaces_notebooks", {"name": "made"}),
    "PATCH /v1/workspaces/notebooks/nb-1": ("workspaces_notebooks", {"shared": True}),
    "POST /v1/fine_tuning/jobs": ("fine_tuning_jobs", {"model": "tiny", "training_file": "file-1"}),
    "POST /v1/model_credentials": (
        "model_credentials",
        {"name": "n", "source_repository": "HUGGING_FACE", "secret": "s"},
    ),
    "POST /v1/fine_tuning/credentials": ("fine_tuning_credentials", {"type": "mlflow", "secret": "s"}),
    "POST /v1/fine_tuning/checkpoints/ft:tiny:x/permissions": (
        "fine_tuning_checkpoints",
        {"project_ids": ["proj_1"]},
    ),
    "POST /v1/fine_tuning/workers/ftjob-worker/reports": ("fine_tuning_workers", {"records": []}),
    "POST /v1/fine_tuning/workers/ftjob-worker/uploads": (
        "fine_tuning_workers",
        {"kind": "state", "bytes": 1, "sha256": "0" * 64},
    ),
    "POST /v1/fine_tuning/workers/ftjob-worker/uploads/upload_1/complete": (
        "fine_tuning_workers",
        {"part_ids": ["part_1"], "sha256": "0" * 64},
    ),
    "POST /v1/clusters": ("clusters", {"name": "made"}),
    "POST /v1/clusters/cluster-1:rotateKey": ("clusters", {}),
    "POST /v1/clusters/cluster-1/config": ("clusters", {"device_plugin_config": {"time_slicing": {"gpus": 4}}}),
    "PATCH /v1/clusters/cluster-1/config": ("clusters", {"device_plugin_config": {"mps": {"gpus": 4}}}),
    "POST /v1/clusters/agent/heartbeats": (
        "clusters_agent",
        {"protocol_version": 1, "agent_version": "0.4.0", "sent_at": 1.5},
    ),
    "POST /v1/fine_tuning/workers/ftjob-worker/grades": ("fine_tuning_workers", {"item": {}, "output_text": "Arrr!"}),
    "POST /v1/fine_tuning/alpha/graders/run": (
        "fine_tuning_alpha_graders",
        {"grader": GRADER, "model_sample": "Arrr!"},
    ),
    "POST /v1/fine_tuning/alpha/graders/validate": ("fine_tuning_alpha_graders", {"grader": GRADER}),
    "POST /v1/vector_stores": ("vector_stores", {"name": "made"}),
    "POST /v1/vector_stores/vs_1": ("vector_stores", {"name": "made"}),
    "POST /v1/vector_stores/vs_1/search": ("vector_stores", {"query": "pumps"}),
    "POST /v1/vector_stores/search": ("vector_stores", {"query": "pumps", "vector_store_ids": ["vs_1"]}),
    "POST /v1/vector_stores/vs_1/files": ("vector_stores", {"file_id": "file-1"}),
    "POST /v1/vector_stores/vs_1/files/file-1": ("vector_stores", {"attributes": {"year": 2026}}),
    "POST /v1/vector_stores/vs_1/file_batches": ("vector_stores", {"file_ids": ["file-1"]}),
    "POST /internal/gateway/changes": ("internal_gateway", {"cursor": ""}),
}
LIMITS = {name: 8 * 1024 * 1024 if name in TOKEN_PATH else 1024 * 1024 for name, _ in BODIES.values()}
LIMITS["batch_jobs"] = LIMITS["batch_jobs_exec"] = LIMITS["clusters_agent"] = 2 * 1024 * 1024


@pytest.fixture
def send(ask: Ask, admin: dict[str, str], installation: Installation) -> Any:
    """Send a body to a route of the table, with the required permissions."""

    def sent(route: str, body: Any, **headers: str) -> HttpResponse:
        name, _ = BODIES[route]
        method, path = with_ids(route, installation).split()
        caller = {"authorization": f"Bearer {installation.credential(name)}"}
        said = {key.replace("_", "-"): value for key, value in headers.items()}
        return ask(name, HttpRequest(method, path, body, {**caller, **said}))

    return sent


def with_ids(route: str, installation: Installation) -> str:
    """A row of the table with ids of the administrator's organization and two projects of it."""
    owner = installation.owner
    here = route.replace("HERE", owner.organization_id).replace("MINE", owner.project_id)
    return here.replace("SPARE", installation.spare_project)


UNREADABLE = {
    "nothing": b"",
    "no JSON": b"{",
    "a comma too many": b'{"name": "x",}',
    "two values": b"{}{}",
    "text behind": b'{"name": "x"} trailing',
    "single quotes": b"{'name': 'x'}",
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "half of a surrogate pair in UTF-8": b'{"name": "\xed\xa0\x80"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "a raw control character": b'{"name": "a\x01b"}',
    "too deep": b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "too deep and broken": b"[" * 100_000,
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("route", BODIES)
def test_an_unreadable_body_is_rejected(route: str, body: bytes, send: Any) -> None:
    answer = send(route, body)
    assert answer.status == 400, answer.body
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]
    assert "Traceback" not in answer.error["message"]


NOT_OBJECTS = {"a list": b"[]", "a string": b'"x"', "a number": b"1", "null": b"null", "true": b"true"}


@pytest.mark.parametrize("body", NOT_OBJECTS.values(), ids=NOT_OBJECTS)
@pytest.mark.parametrize("route", BODIES)
def test_a_body_that_is_not_an_object_is_rejected(route: str, body: bytes, send: Any) -> None:
    answer = send(route, body)
    assert answer.status == 400, answer.body
    assert "JSON object" in answer.error["message"]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize("route", BODIES)
def test_a_body_of_another_media_type_is_rejected(route: str, content_type: str, send: Any) -> None:
    assert_error(send(route, BODIES[route][1], content_type=content_type), 415, "unsupported_media_type")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
@pytest.mark.parametrize("route", BODIES)
def test_a_json_media_type_may_have_parameters_and_capitals(route: str, content_type: str, send: Any) -> None:
    answer = send(route, {**BODIES[route][1], "name": 7, "config": 7, "model": 7}, content_type=content_type)
    assert answer.status != 415


@pytest.mark.parametrize("route", BODIES)
def test_a_body_over_the_limit_is_rejected(route: str, send: Any) -> None:
    body = b'{"name": "' + b"x" * LIMITS[BODIES[route][0]] + b'"}'
    assert_error(send(route, body), 413, "request_too_large")


@pytest.mark.parametrize("route", BODIES)
def test_a_declared_length_over_the_limit_is_rejected_unread(route: str, send: Any) -> None:
    assert_error(send(route, b"{}", content_length=str(LIMITS[BODIES[route][0]] + 1)), 413, "request_too_large")


REQUIRED = {
    "POST /v1/chat/completions": ("model", "messages"),
    "POST /v1/completions": ("model", "prompt"),
    "POST /v1/embeddings": ("model", "input"),
    "POST /v1/tokenize": ("model",),
    "POST /v1/detokenize": ("model", "tokens"),
    "POST /v1/models": ("source_repository",),
    "POST /v1/files:createFromObjectPath": ("object_path", "purpose"),
    "POST /v1/files:createUploadLink": ("filename", "purpose"),
    "POST /v1/api_keys": ("name",),
    "POST /v1/invitations:accept": ("token",),
    "POST /v1/organizations": ("title",),
    "POST /v1/organizations/HERE/users": ("user_id", "role"),
    "POST /v1/organizations/HERE/projects": ("title",),
    "POST /v1/organizations/HERE/projects/MINE/users": ("user_id", "role"),
    "POST /v1/organizations/HERE/projects/MINE/api_keys": ("name",),
}


@pytest.mark.parametrize(("route", "field"), [(route, field) for route in REQUIRED for field in REQUIRED[route]])
def test_a_missing_field_is_named(route: str, field: str, send: Any) -> None:
    body = {name: value for name, value in BODIES[route][1].items() if name != field}
    answer = send(route, body)
    assert_error(answer, 400, "missing_required_parameter")
    assert answer.error["param"] == field


INVALID_VALUES: dict[str, dict[str, list[Any]]] = {
    "POST /v1/files:createFromObjectPath": {
        "object_path": [
            7,
            "",
            "x",
            "s3://walk/",
            "s3://other/x",
            "s3://walk/../x",
            "file:///etc/passwd",
            "s3://walk/\0",
        ],
        "purpose": [7, "", "fun", "batch_output"],
    },
    "POST /v1/files:createUploadLink": {
        "filename": [7, "", "..", "x" * 256, None],
        "purpose": [7, "", "fun", "batch_output"],
        "bytes": [-1, 1.5, "5", True, 2**40],
        "max_bytes": [-1, 1.5, "5", True, 2**40],
        "sha256": [7, "", "x", "g" * 64],
        "expires_after": [7, {}, {"anchor": "created_at"}],
        "expires_in_seconds": [0, -1, 604_801, "60", 1.5, True, None],
    },
    "POST /v1/files/file-1/links": {"expires_in_seconds": [0, -1, 604_801, "60", 1.5, True, None]},
    "POST /v1/chat/completions": {
        "model": [7, "", [], True],
        "messages": ["x", {}, [], [7], [{}], [{"role": 7}], [{"role": ""}], [{"role": "user", "content": 7}]],
        "stream": ["yes", 1],
        "stream_options": ["x", []],
        "temperature": ["hot", -0.1, 2.1, True],
        "top_p": [-1, 1.1],
        "n": [0, 129, 1.5, "2"],
        "max_tokens": [-1, 0, 2**31, 1.5],
        "max_completion_tokens": [-1, 0, "x"],
        "use_beam_search": [True, 1],
        "stop": [7, [7]],
        "logprobs": [1],
        "top_logprobs": [-1, 21],
        "tools": [{}, "x"],
        "tool_choice": ["sometimes", 7],
        "seed": ["x", 1e30],
    },
    "POST /v1/completions": {
        "prompt": [7, [], [True], [None]],
        "logprobs": [True, 21],
        "best_of": [0, 21],
        "max_tokens": [-1, 0],
        "max_completion_tokens": [1, -1, "x"],
    },
    "POST /v1/embeddings": {
        "input": [7, [], [1.5]],
        "dimensions": [0, 65537],
        "encoding_format": [7, "bytes", "bytes_only"],
        "padding": ["max_length"],
    },
    "POST /v1/tokenize": {"prompt": [7], "messages": ["x"], "add_special_tokens": ["yes"]},
    "POST /v1/detokenize": {"tokens": ["x", 7]},
    "POST /v1/models": {
        "id": [7, "a b", "../etc", "a//b", "/a", "x" * 201, "a\0b"],
        "source_repository": [7, "", "GITHUB"],
        "is_project_scoped": ["yes", 1],
        "task": [7, "chat"],
        "config": [7, "x", []],
    },
    "PATCH /v1/models/tiny": {"config": [7, None, []], "update_mask": [7, "", "name", "config.x", ","]},
    "POST /v1/api_keys": {
        "name": [7, "", "x" * 257],
        "scopes": ["api.model.read", [], [7], ["api.nothing"], ["api.k8s.clusterscope.read"]],
        "expires_in_seconds": [0, -1, 1.5, "60", 10 * 365 * 86400 + 1],
        "excluded_from_rate_limiting": ["yes", 1],
        "project_id": [7],
        "organization_id": [7],
        "role": [7, "owner"],
        "is_service_account": ["yes", 1],
        "allowed_models": ["x", [], [7], [""], ["x"] * 1001],
        "allowed_sources": ["x", [], [7], ["x"], ["10.0.0.1/8"], ["10.0.0.1"] * 101],
    },
    "PATCH /v1/api_keys/key_1": {
        "name": [7, "", "x" * 257],
        "excluded_from_rate_limiting": ["yes"],
        "scopes": [7, [], ["api.nothing"]],
        "expires_at": ["x", 1.5, 1],
        "allowed_models": [[]],
        "allowed_sources": [["x"]],
        "update_mask": [7, "secret", "name,user"],
    },
    "POST /v1/invitations:accept": {"token": [7, None]},
    "POST /v1/organizations": {"title": [7, "", " ", "x" * 201, "a\nb", "a\0b"]},
    "POST /v1/organizations/HERE/users": {
        "user_id": [7, "", "ann", "a b@c", "x" * 300 + "@c"],
        "role": [7, "", "boss", "ORGANIZATION_ROLE_UNSPECIFIED", "PROJECT_ROLE_OWNER", "role_nobody"],
    },
    "POST /v1/organizations/HERE/projects": {
        "title": [7, "", "x" * 257],
        "kubernetes_namespace": [7, "Team", "-a", "a" * 64],
        "assignments": [
            "x",
            [7],
            [{}],
            [{"namespace": "A"}],
            [{"namespace": "a"}, {"namespace": "b"}],
            [{"namespace": "a", "node_selector": [{"key": "a b"}]}],
            [{"namespace": "a", "cluster_id": "c" * 65}],
            [{"namespace": "a", "kueue_queue_name": "Q"}],
            [{"namespace": "a", "cluster_id": str(number)} for number in range(101)],
        ],
    },
    "PATCH /v1/organizations/HERE/projects/SPARE": {
        "title": [7, "", "x" * 257],
        "assignments": [7, [{"namespace": ""}]],
        "update_mask": [7, "id", "title,kubernetes_namespace", ","],
    },
    "POST /v1/organizations/HERE/projects/MINE/users": {
        "user_id": [7, "", "nobody@example.org", "user_2"],
        "role": [7, "", "reader", "role_nobody"],
    },
    "POST /v1/organizations/HERE/projects/MINE/api_keys": {
        "name": [7, "", "x" * 257],
        "project_id": [7, "proj_2"],
        "organization_id": [7, "org_2"],
    },
    "POST /v1/api_keys/key_1:rotate": {"overlap_seconds": [-1, 30 * 86400 + 1, "x", None, 1.5]},
}
INVALID_CASES = [
    (route, field, value)
    for route in INVALID_VALUES
    for field in INVALID_VALUES[route]
    for value in INVALID_VALUES[route][field]
]


@pytest.mark.parametrize(("route", "field", "value"), INVALID_CASES, ids=lambda value: str(value)[:30])
def test_a_field_of_an_invalid_type_or_value_is_named(route: str, field: str, value: Any, send: Any) -> None:
    answer = send(route, {**BODIES[route][1], field: value})
    assert answer.status == 400, answer.body
    assert answer.error["type"] == "invalid_request_error"
    assert str(answer.error["param"]).split("[")[0].split(".")[0] == field


@pytest.mark.parametrize("operation", ["key", "model", "wake", "sleep", "status", "changes", "record", "used"])
def test_an_internal_operation_without_its_fields_is_rejected(
    operation: str, ask: Ask, installation: Installation
) -> None:
    headers = {"authorization": f"Bearer {installation.service_token}"}
    answer = ask("internal_gateway", HttpRequest("POST", f"/internal/gateway/{operation}", {}, headers))
    assert answer.status == 400, answer.body


QUERIES = {
    "GET /v1/models": ("models", ["limit=-1", "limit=501", "limit=x", "after=nobody", "include_loading_models=maybe"]),
    "GET /v1/jobs/summaries": (
        "jobs",
        [
            "filter.duration=1h",
            "filter.duration=-1s",
            "filter.start_timestamp=x",
            "filter.start_timestamp=9&filter.end_timestamp=9",
            "filter.start_timestamp=1&filter.end_timestamp=9999&filter.duration=1s",
        ],
    ),
    "GET /v1/clustertelemetry/gpu-usages": (
        "clustertelemetry",
        [
            "filter.end_timestamp=-1",
            "filter.start_timestamp=7200&filter.end_timestamp=7200",
            "filter.start_timestamp=x",
        ],
    ),
    "GET /v1/clustertelemetry/clustersnapshots": (
        "clustertelemetry",
        [
            "group_by=COLOR",
            "filter.end_timestamp=-1",
            "filter.start_timestamp=7200&filter.end_timestamp=3600",
            "filter.start_timestamp=1&filter.end_timestamp=99999999",
        ],
    ),
    "GET /v1/api_usages": (
        "api_usages",
        [
            "start_time=x",
            "start_time=-1",
            "end_time=nan",
            "start_time=inf",
            "group_by=color",
            "start_time=9&end_time=9",
        ],
    ),
    "GET /v1/api-usage/model-usage-summaries": (
        "api_usage",
        [
            "interval_sec=x",
            "interval_sec=-1",
            "filter.start_timestamp=9&filter.end_timestamp=9",
            "filter.status_code=x",
            "filter.start_timestamp=1&filter.end_timestamp=99999999999&interval_sec=1",
        ],
    ),
    "GET /v1/organization/costs": (
        "organization_costs",
        [
            "",
            "start_time=x",
            "start_time=9&end_time=9",
            "start_time=1&bucket_width=1h",
            "start_time=1&group_by=model",
            "start_time=1&limit=181",
            "start_time=1&page=x",
        ],
    ),
    "GET /v1/organization/usage/completions": (
        "organization_usage",
        [
            "",
            "start_time=1&bucket_width=2d",
            "start_time=1&group_by[]=line_item",
            "start_time=1&page=page_7",
            "start_time=-1",
        ],
    ),
    "GET /v1/organization/usage/embeddings": ("organization_usage", ["", "start_time=1&group_by=batch"]),
    "GET /v1/organization/usage/requests": ("organization_usage", ["start_time=x", "end_time=-1"]),
    "GET /v1/prices": ("prices", ["at=x", "at=-1"]),
    "GET /v1/events": (
        "events",
        ["limit=101", "limit=x", "state=lost", "after=x", "after=%C2%B2", f"after={'9' * 30}"],
    ),
    "GET /v1/models/tiny": ("models", ["include_loading_model=maybe"]),
    "GET /v1/files": ("files", ["limit=-1", "limit=10001", "order=up", "after=x", "purpose=none"]),
}


@pytest.mark.parametrize(("route", "query"), [(route, query) for route in QUERIES for query in QUERIES[route][1]])
def test_an_invalid_query_is_rejected(route: str, query: str, ask: Ask, admin: dict[str, str]) -> None:
    method, path = route.split()
    answer = ask(QUERIES[route][0], HttpRequest(method, path, None, admin, query))
    assert answer.status == 400, answer.body
    said = {part.split("=")[0].removesuffix("[]") for part in query.split("&")}
    assert answer.error["param"] in {*said, "start_time", "end_time"}


def test_every_route_with_a_body_is_in_the_table() -> None:
    # The last one opens a connection and has no body.
    forms = {"POST /v1/files", "POST /v1/uploads/{id}/parts", "POST /v1/sessions/{cluster_id}/api/{path:path}"}
    without = {
        ":activate",
        ":deactivate",
        ":replay",
        ":revokeKey",
        "drain",
        "/archive",
        "/cancel",
        "/pause",
        "/rebuild",
        "/resume",
        ":retry",
        "/actions:open",
        "/actions:start",
        "/actions:stop",
        "/notebooks/{id}/{path:path}",
        "/kubernetes/{path:path}",
        "/engines/{path:path}",
    }
    taking = [route for route in ROUTES if route.method in ("POST", "PATCH")]
    jsons = [route for route in taking if str(route) not in forms]
    expected = [route for route in jsons if not any(route.path.endswith(end) for end in without)]
    for route in expected:
        known = [row for row in BODIES if row.split()[0] == route.method and route.pattern.fullmatch(row.split()[1])]
        assert known, f"{route} has no row in BODIES"
