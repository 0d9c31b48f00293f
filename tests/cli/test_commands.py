"""Every command once: its request to the API, and its output for the response."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
import yaml

from llmariner.cli.main import llma as root

from . import admin_cases, batch_cases, cluster_cases, fine_tuning_cases, storage_cases, workspace_cases

if TYPE_CHECKING:
    from cli.conftest import FakePlatform, Llma

MODEL = {
    "id": "Qwen/Qwen2.5-0.5B",
    "created": 1_760_000_000,
    "object": "model",
    "owned_by": "system",
    "loading_status": "MODEL_LOADING_STATUS_SUCCEEDED",
    "source_repository": "SOURCE_REPOSITORY_HUGGING_FACE",
    "loading_failure_reason": "",
    "loading_status_message": "",
    "loading_progress": 1.0,
    "formats": ["MODEL_FORMAT_HUGGING_FACE"],
    "is_base_model": True,
    "base_model_id": "",
    "activation_status": "ACTIVATION_STATUS_ACTIVE",
    "config": {
        "runtime_config": {"resources": {"gpu": 1}, "replicas": 2, "extra_args": ["--max-model-len=4096"]},
        "cluster_allocation_policy": {"enable_on_demand_allocation": True},
    },
    "serving": {
        "phase": "loading",
        "progress": 0.4,
        "estimate_seconds": 12.2,
        "wake_seconds": {"p50": 8.25, "p95": 14.0},
        "last_request_at": 1_760_000_000,
        "requests_running": 3,
        "requests_waiting": 5,
    },
}
KEY = {
    "id": "key_1",
    "object": "organization.project.api_key",
    "name": "laptop",
    "created_at": 1_760_000_000,
    "prefix": "llmk_ab",
    "scopes": ["api.model.read"],
    "expires_at": 1_790_000_000,
    "last_used_at": None,
}
KEYS = {"object": "list", "data": [KEY]}
STATUS = {
    "cluster_statuses": [
        {
            "id": "local",
            "name": "this machine",
            "engine_statuses": [
                {
                    "engine_id": "e1",
                    "models": [
                        {
                            "id": "tiny",
                            "is_ready": True,
                            "phase": "ready",
                            "requests_running": 4,
                            "requests_waiting": 7,
                            "tokens_per_second": 1234.56,
                            "memory_bytes": 3_221_225_472,
                        }
                    ],
                }
            ],
        }
    ]
}
CHAT = {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Blue."}}]}
SAMPLING = "--max-tokens 9 --temperature 0 --top-p 0.5 --stop A --stop B --presence-penalty -1 --frequency-penalty 1"
SAMPLED = {
    "max_tokens": 9,
    "temperature": 0.0,
    "top_p": 0.5,
    "stop": ["A", "B"],
    "presence_penalty": -1.0,
    "frequency_penalty": 1.0,
}


@dataclass(frozen=True)
class Case:
    """A command line, the request it must end in, the answer, and words of the output."""

    line: str
    route: str
    answer: dict[str, Any]
    shows: tuple[str, ...]
    body: Any = None
    query: dict[str, str] = field(default_factory=dict)
    before: dict[str, dict[str, Any]] = field(default_factory=dict)


# The first of these is any day; the second must be one of the last two when the test runs, even after the next midnight.
SOME_DAY = 1_795_478_400
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
USED = {"model": "a/b", "day": SOME_DAY, "requests": 1200}
USAGE = {"object": "list", "data": [{**USED, "key": "key_1"}, {**USED, "key": "key_gone"}]}
EVENT = {"type": "ai.llmariner.model.loaded.v1", "subject": "models/a/b", "time": "2026-11-24T10:00:00Z"}
DELIVERY = {"consumer": "model_loader", "state": "dead", "attempts": 9, "last_error": "500"}
EVENTS = {"data": [{"id": "ev_1", "cursor": "7", **EVENT, **DELIVERY}], "has_more": False}
FIND_KEY = {"GET /api_keys": KEYS}
ADA = {
    "type": "api_key",
    "api_key": {"id": "key_1", "user": {"id": "user_1", "email": "ada@x.org"}, "ip_address": "::1"},
}
ACT = {"id": "audit_log_1", "type": "project.archived", "effective_at": 1_760_000_000, "actor": ADA}
ACTS = {"data": [{**ACT, "project.archived": {"id": "proj_9"}, "project": {"id": "proj_9", "name": "Nine"}}]}
WHOLE = {"whole": True, "entries": 7, "head": "ab" * 32, "broken_at": None, "reason": None}
USED_TODAY = {"model": "a/b", "day": int(TODAY.timestamp()), "requests": 3, "prompt_tokens": 1200, "cost_usd": 0.0125}
EXPLAINED = {
    "id": "req_1",
    "model": "a/b",
    "outcome": "cancelled",
    "status": 499,
    "admitted_at": 1_760_000_000.25,
    "first_token_seconds": 0.5,
    "price_id": "price_1",
    "amount": {"value": 0.000123456, "currency": "usd"},
    "line_items": [{"line_item": "input_tokens", "quantity": 9, "price_usd": 2.5, "amount_usd": 0.0000225}],
    "events": [{"kind": "checkpoint", "at": 1_760_000_001.25, "outcome": "open", "prompt_tokens": 9}],
    "rebuilt_equals_stored": True,
}
PRICES: dict[str, Any] = {
    "data": [{"id": "price_1", "model": "a/b", "prompt": 2.5, "cached_prompt": 0.125, "valid_from": 1_760_000_000}]
}
COMPUTE_PRICES: dict[str, Any] = {
    "data": [
        {"id": "price_1", "device": "a100", "gpu_hour": 3.5, "core_hour": 0.05, "valid_from": 1_760_000_000},
        {"id": "price_2", "device": "", "gpu_hour": 0, "core_hour": 0.05, "valid_from": 1_760_000_000},
    ],
    "has_more": False,
}
HELD_TODAY = {
    "start_time": int(TODAY.timestamp()),
    "results": [
        {
            "kind": "batch_job",
            "gpu_seconds": 7200,
            "core_seconds": 0,
            "memory_gib_seconds": 0,
            "amount": {"value": 7.0, "currency": "usd"},
        }
    ],
}

CHARGE = {"id": "charge_1", "charge": "devices", "valid_from": 1_760_000_000.0, "valid_to": None}

COSTS_TODAY = {
    "start_time": int(TODAY.timestamp()),
    "results": [
        {
            "line_item": "a100, gpu_seconds",
            "quantity": 3600.5,
            "amount": {"value": 1e-9, "currency": "usd"},
        }
    ],
}

ALIAS = {
    "id": "bot",
    "object": "model_alias",
    "model": "a/b",
    "revision": 3,
    "created_at": 1_790_000_000,
    "updated_at": 1_790_000_001,
}
ALIAS_REVISION = {
    "object": "model_alias.revision",
    "revision": 3,
    "model": "a/b",
    "previous_model": "c/d",
    "created_at": 1_790_000_001,
    "cause": "rolled_back",
    "reason": "worse",
    "user_id": "user_1",
    "key_id": None,
    "fine_tuning_job_id": None,
}
MODEL_CREDENTIAL = {
    "id": "mcred_1",
    "object": "model_credential",
    "name": "mine",
    "source_repository": "SOURCE_REPOSITORY_HUGGING_FACE",
    "username": None,
    "created_at": 1_760_000_000,
    "updated_at": 1_760_000_000,
}
_SECRET = Path(__file__).with_name("tracking_secret.txt")

CASES = [
    Case("status", "GET /inference/status", STATUS, ("tiny", "this machine", "ready", "4", "7", "1,234.6", "3.0 GiB")),
    Case(
        "clusters list",
        "GET /jobs/clusters",
        {"clusters": [{"id": "cluster-1", "name": "gpu-west", "summary": {"gpu_capacity": 16}}], "has_more": False},
        ("cluster-1", "gpu-west", "16"),
        query={"limit": "100"},
    ),
    Case(
        "models list",
        "GET /models",
        {"object": "list", "data": [MODEL], "has_more": False, "total_items": 1},
        ("Qwen/Qwen2.5-0.5B", "loading", "active", "hugging-face", "2025-10-09"),
        query={"include_loading_models": "true"},
    ),
    Case(
        "models get Qwen/Qwen2.5-0.5B",
        "GET /models/Qwen/Qwen2.5-0.5B",
        MODEL,
        ("loading, 40%, about 12 s left", "p50 8.2 s, p95 14.0 s", "--max-model-len=4096", "active"),
        query={"include_loading_model": "true"},
    ),
    Case(
        "models aliases list",
        "GET /model_aliases",
        {"object": "list", "data": [ALIAS], "has_more": False},
        ("bot", "a/b", "3"),
    ),
    Case("models aliases get bot", "GET /model_aliases/bot", ALIAS, ("bot", "a/b")),
    Case(
        "models aliases create bot a/b --reason first",
        "POST /model_aliases",
        ALIAS,
        ("bot points at a/b by revision 3.",),
        body={"alias": "bot", "model": "a/b", "reason": "first"},
    ),
    Case(
        "models aliases set bot a/b --expected-revision 2",
        "PATCH /model_aliases/bot",
        ALIAS,
        ("bot points at a/b by revision 3.",),
        body={"model": "a/b", "reason": "", "expected_revision": 2},
    ),
    Case(
        "models aliases rollback bot --to-revision 1 --reason worse",
        "POST /model_aliases/bot/rollback",
        ALIAS,
        ("bot points at a/b by revision 3.",),
        body={"reason": "worse", "revision": 1},
    ),
    Case(
        "models aliases history bot",
        "GET /model_aliases/bot/revisions",
        {"object": "list", "data": [ALIAS_REVISION], "has_more": False},
        ("rolled_back", "a/b", "c/d", "worse", "user_1"),
    ),
    Case("models aliases delete bot", "DELETE /model_aliases/bot", {"id": "bot", "deleted": True}, ("Deleted bot.",)),
    Case("models delete a/b", "DELETE /models/a/b", {"id": "a/b", "deleted": True}, ("Deleted a/b.",)),
    Case("models activate a/b", "POST /models/a/b:activate", {}, ("Activated a/b.",), body={}),
    Case("models deactivate a/b", "POST /models/a/b:deactivate", {}, ("Deactivated a/b.",), body={}),
    Case(
        f"models credentials set mine --source-repository hugging-face --secret-file {_SECRET}",
        "POST /model_credentials",
        MODEL_CREDENTIAL,
        ("Set mine.", "llma models pull ID --credential mine"),
        body={"name": "mine", "source_repository": "HUGGING_FACE", "secret": "s3cret"},
    ),
    Case(
        "models credentials list",
        "GET /model_credentials",
        {"object": "list", "data": [MODEL_CREDENTIAL], "has_more": False},
        ("mcred_1", "mine", "hugging-face", "2025-10-09"),
    ),
    Case(
        "models credentials delete mcred_1",
        "DELETE /model_credentials/mcred_1",
        {"id": "mcred_1", "object": "model_credential.deleted", "deleted": True},
        ("Deleted mcred_1.",),
    ),
    Case("models retry a/b", "POST /models/a/b:retry", {}, ("Retrying a/b.",), body={}),
    Case(
        "models create base a/b --source-repository hugging-face --gpu 0 --disable-on-demand-allocation",
        "POST /models",
        {**MODEL, "id": "a/b"},
        ("Registered a/b.",),
        body={
            "id": "a/b",
            "source_repository": "HUGGING_FACE",
            "config": {
                "runtime_config": {"resources": {"gpu": 0}},
                "cluster_allocation_policy": {"enable_on_demand_allocation": False},
            },
        },
    ),
    Case(
        "models create fine-tuned --base-model-id a/b --suffix mine --source-repository object-store"
        " --model-file-location s3://bucket/adapter",
        "POST /models",
        {**MODEL, "id": "ft:a/b:mine"},
        ("Registered ft:a/b:mine.",),
        body={
            "is_fine_tuned_model": True,
            "base_model_id": "a/b",
            "suffix": "mine",
            "source_repository": "OBJECT_STORE",
            "model_file_location": "s3://bucket/adapter",
        },
    ),
    Case(
        "models update a/b --gpu 2 --replicas 3 --extra-args --enforce-eager --extra-args=--seed=1"
        " --disable-on-demand-allocation",
        "PATCH /models/a/b",
        MODEL,
        ("Updated a/b.",),
        body={
            "config": {
                "runtime_config": {
                    "resources": {"gpu": 2},
                    "replicas": 3,
                    "extra_args": ["--enforce-eager", "--seed=1"],
                },
                "cluster_allocation_policy": {"enable_on_demand_allocation": False},
            },
            "update_mask": "config.runtime_config.resources.gpu,config.runtime_config.replicas,"
            "config.runtime_config.extra_args,config.cluster_allocation_policy.enable_on_demand_allocation",
        },
    ),
    Case(
        "models update a/b --clear-extra-args --created 1790000000",
        "PATCH /models/a/b",
        MODEL,
        ("Updated a/b.",),
        body={
            "config": {"runtime_config": {"extra_args": []}},
            "update_mask": "config.runtime_config.extra_args",
            "created": 1790000000,
        },
    ),
    Case("models pull a/b", "GET /models/a/b", MODEL, ("a/b is loaded.",), query={"include_loading_model": "true"}),
    Case("auth api-keys list", "GET /api_keys", KEYS, ("key_1", "laptop", "llmk_ab", "api.model.read", "never")),
    Case(
        "auth api-keys create ci --scope api.model.read --scope api.model.write",
        "POST /api_keys",
        {**KEY, "name": "ci", "secret": "llmk_new_secret"},
        ("llmk_new_secret", "not shown again"),
        body={"name": "ci", "scopes": ["api.model.read", "api.model.write"]},
    ),
    Case(
        "auth api-keys delete laptop",
        "DELETE /api_keys/key_1",
        {"id": "key_1", "deleted": True},
        ("Deleted API key laptop (key_1).",),
        before=FIND_KEY,
    ),
    Case(
        "auth api-keys update key_1 --new-name desk",
        "PATCH /api_keys/key_1",
        {**KEY, "name": "desk"},
        ("Renamed API key laptop (key_1) to desk.",),
        body={"name": "desk", "update_mask": "name"},
        before=FIND_KEY,
    ),
    Case(
        "auth api-keys rotate laptop --overlap 60",
        "POST /api_keys/key_1:rotate",
        {**KEY, "secret": "llmk_rotated_secret"},
        ("llmk_rotated_secret", "not shown again"),
        body={"overlap_seconds": 60},
        before=FIND_KEY,
    ),
    Case(
        f"chat completions create --model a/b --role user --completion Why? --nostream {SAMPLING}",
        "POST /chat/completions",
        CHAT,
        ("Blue.",),
        body={"model": "a/b", "messages": [{"role": "user", "content": "Why?"}], **SAMPLED},
    ),
    Case(
        f"completions create --model a/b --prompt Once --nostream {SAMPLING}",
        "POST /completions",
        {"object": "text_completion", "choices": [{"index": 0, "text": " upon"}]},
        (" upon",),
        body={"model": "a/b", "prompt": "Once", **SAMPLED},
    ),
    Case(
        "embeddings create --model e --input one --input two --dimensions 5",
        "POST /embeddings",
        {"data": [{"index": 0, "embedding": [0.5, -1, 0, 0, 9]}, {"index": 1, "embedding": [1, 2, 3, 4, 5]}]},
        ("one", "two", "5", "+0.5000 -1.0000 +0.0000 +0.0000 …"),
        body={"model": "e", "input": ["one", "two"], "dimensions": 5},
    ),
    Case(
        "tokenize --model m --prompt hi",
        "POST /tokenize",
        {"count": 2, "max_model_len": 4096, "tokens": [11, 22]},
        ("11 22", "2 tokens; the model takes 4096."),
        body={"model": "m", "prompt": "hi"},
    ),
    Case(
        "detokenize --model m 11 22",
        "POST /detokenize",
        {"prompt": "hi"},
        ("hi",),
        body={"model": "m", "tokens": [11, 22]},
    ),
    Case(
        "usage list",
        "GET /api_usages",
        USAGE,
        ("2026-11-24", "laptop", "key_gone", "a/b", "1,200"),
        query={"group_by": "key,model,day"},
        before=FIND_KEY,
    ),
    Case(
        "events list --state dead",
        "GET /events",
        EVENTS,
        ("ev_1", "ai.llmariner.model.loaded.v1", "models/a/b", "model_loader", "dead", "500"),
        query={"state": "dead", "limit": "50"},
    ),
    Case("events replay ev_1", "POST /events/ev_1:replay", {}, ("ev_1",), body={}),
    Case(
        "admin usage show --days 2",
        "GET /api_usages",
        {"data": [USED_TODAY]},
        (f"{TODAY:%Y-%m-%d}", "a/b", "1,200", "0.012500", "COST $"),
        query={"group_by": "day"},
    ),
    Case(
        "admin usage costs --days 1 --by item",
        "GET /organization/costs",
        {"data": [COSTS_TODAY], "has_more": False},
        ("a100, gpu_seconds", "3,600.500", "0.000000001", f"{TODAY:%Y-%m-%d}"),
        query={"group_by": "line_item", "limit": "1"},
    ),
    Case(
        "admin usage why req_1",
        "GET /organization/usage/requests/req_1",
        EXPLAINED,
        ("req_1", "a/b", "price_1", "0.000123456", "2.50 per million", "checkpoint", "add up to what is stored"),
    ),
    Case(
        "admin prices list --model a/b",
        "GET /prices",
        PRICES,
        ("a/b", "2.50", "0.125", "2025-10-09"),
        query={"model": "a/b"},
    ),
    Case(
        "admin prices set a/b --prompt 2.5 --completion 10 --cached 0.125",
        "POST /prices",
        PRICES["data"][0],
        ("a/b", "2025-10-09", "price_1"),
        body={"model": "a/b", "prompt": "2.5", "completion": "10", "cached_prompt": "0.125"},
    ),
    Case(
        "admin showback prices",
        "GET /prices/compute",
        COMPUTE_PRICES,
        ("a100", "(no GPU)", "3.50", "0.05", "2025-10-09"),
    ),
    Case(
        "admin showback set-price a100 --gpu-hour 3.5 --core-hour 0.05",
        "POST /prices/compute",
        COMPUTE_PRICES["data"][0],
        ("a100", "2025-10-09"),
        body={"device": "a100", "gpu_hour": "3.5", "core_hour": "0.05"},
    ),
    Case(
        "admin showback charge",
        "GET /prices/charge",
        {"object": "list", "data": [CHARGE], "has_more": False},
        ("devices", "2025-10-09"),
    ),
    Case(
        "admin showback charge devices",
        "POST /prices/charge",
        CHARGE,
        ("devices only", "2025-10-09"),
        body={"charge": "devices"},
    ),
    Case(
        "admin showback show --days 1 --by kind",
        "GET /organization/usage/compute",
        {"data": [HELD_TODAY], "has_more": False},
        ("batch_job", "2.000", "COST $", f"{TODAY:%Y-%m-%d}"),
        query={"group_by": "kind"},
    ),
    Case(
        "admin audit list --type project.archived --actor ada@x.org --actor user_1 --resource proj_9 --project proj_9",
        "GET /organization/audit_logs",
        ACTS,
        ("2025-10-09", "ada@x.org (key_1)", "project.archived", "proj_9", "Nine", "::1", "audit_log_1"),
        query={"event_types[]": "project.archived", "actor_emails[]": "ada@x.org", "actor_ids[]": "user_1"}
        | {"resource_ids[]": "proj_9", "project_ids[]": "proj_9", "limit": "50"},
    ),
    Case(
        "admin audit verify --head " + "ab" * 32,
        "GET /organization/audit_logs:verify",
        WHOLE,
        ("whole", "7 entries", "ab" * 32),
        query={"head": "ab" * 32},
    ),
]
_MODULES = (admin_cases, storage_cases, batch_cases, fine_tuning_cases, cluster_cases, workspace_cases)
CASES += [Case(**row) for module in _MODULES for row in module.ROWS]
TRANSFERS = {"storage files upload", "storage files download", "storage vector-stores add-files", "batch jobs create"}
"""They send or receive files; tested in `test_uploads`, `test_downloads`, `test_add_files` and `test_batch_jobs`."""
STREAMED = {
    "fine-tuning jobs logs",
    "fine-tuning jobs watch",
    "admin usage export",
    "admin showback export",
    "batch jobs exec",
    "batch jobs logs",
    "clusters kubeconfig",
    "admin clusters permissions",
}
"""What they ask or print is no document; tested in `test_admin_usage`, `test_batch_jobs` and `test_kubectl`."""
SHOWN_FROM_A_LIST = {"admin organizations get", "admin projects get", "admin roles get", "admin clusters get"}
"""They show one of what the API lists; tested in `test_admin` and `test_join_cluster`."""
MANIFESTS = {"admin clusters join"}
"""They print what kubectl applies; tested in `test_join_cluster`."""
OFFLINE = {
    "cluster check",
    "cluster status",
    "auth login",
    "auth logout",
    "auth status",
    "auth token",
    "context get",
    "context set",
    "completion",
    "version",
    "up",
    "down",
    "doctor",
    "logs",
}
"""Commands that ask no API; tested in the modules of their own rooms."""


def leaves(command: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands that are no groups."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        assert child is not None
        yield from leaves(child, f"{path} {name}".strip())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line[:60])
def test_a_command_sends_its_request_and_shows_the_response(
    case: Case, llma: Llma, platform: FakePlatform, api_key: str
) -> None:
    for route, document in {**case.before, case.route: case.answer}.items():
        platform.respond(route, document)
    result = llma(*case.line.split())
    assert (result.code, result.err.startswith("Error")) == (0, False), result.err
    for words in case.shows:
        assert words in result.out + result.err
    asked = platform.requests[-1]
    assert f"{asked.method} {asked.path}" == case.route
    assert asked.body == case.body
    assert case.query.items() <= asked.query.items()
    assert asked.headers["authorization"] == f"Bearer {api_key}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line[:60])
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_json_and_yaml_contain_the_response_unchanged(
    case: Case, form: str, llma: Llma, platform: FakePlatform
) -> None:
    for route, document in {**case.before, case.route: case.answer}.items():
        platform.respond(route, document)
    result = llma(*case.line.split(), "--output", form)
    assert result.code == 0, result.err
    document = result.json if form == "json" else yaml.safe_load(result.out)
    assert {**document, "has_more": None} == {**case.answer, "has_more": None}


def test_the_table_has_every_command_that_uses_the_api() -> None:
    tested = {
        path for path, _ in leaves(root) if any(case.line.startswith(path + " ") or case.line == path for case in CASES)
    }
    assert {path for path, _ in leaves(root)} - tested == OFFLINE | SHOWN_FROM_A_LIST | STREAMED | TRANSFERS | MANIFESTS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line[:60])
def test_no_output_contains_the_key(case: Case, llma: Llma, platform: FakePlatform, api_key: str) -> None:
    for route, document in {**case.before, case.route: case.answer}.items():
        platform.respond(route, document)
    answered = llma(*case.line.split())
    for route in (*case.before, case.route):
        platform.respond_error(route, 401)
    refused = llma(*case.line.split())
    assert (answered.code, refused.code) == (0, 3)
    assert api_key not in answered.out + answered.err + refused.out + refused.err
