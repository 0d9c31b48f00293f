"""Valid declarations, and the messages for invalid ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmariner.manifests.declarations import DeclarationError, Route, read_declarations
from llmariner.manifests.environment import parse_variables

Declare = Callable[..., None]


def test_a_function_matches_its_func_yaml(checkout: Path, function: Declare) -> None:
    function(
        "chat_completions",
        "POST /v1/chat/completions",
        "GET /v1/chat/completions/{id}",
        options={
            "scale": {"min": 1, "max": 20, "metric": "concurrency", "target": 40.0},
            "resources": {
                "requests": {"cpu": "100m", "memory": "64Mi"},
                "limits": {"cpu": "2", "memory": "512Mi", "concurrency": 80},
            },
        },
        visibility="public",
        timeout_seconds="3600",
        extras="database, api",
    )
    (found,), consumers = read_declarations(checkout)
    assert consumers == []
    assert found.name == "chat-completions"
    assert found.folder == "functions/chat_completions"
    assert found.routes == (
        Route("POST", "/v1/chat/completions"),
        Route("GET", "/v1/chat/completions/{id}"),
    )
    assert (found.timeout_seconds, found.concurrency, found.public) == (3600, 80, True)
    assert (found.scale.min, found.scale.max, found.scale.target) == (1, 20, 40.0)
    assert dict(found.limits) == {"cpu": "2", "memory": "512Mi"}
    assert found.extras == ("api", "database")


def test_optional_fields_have_defaults(checkout: Path, function: Declare) -> None:
    function("models", "GET /v1/models")
    (found,), _ = read_declarations(checkout)
    assert (found.timeout_seconds, found.concurrency, found.scale.min, found.public) == (60, 100, 0, True)
    assert found.requests["memory"] == "128Mi"


def test_a_consumer_matches_the_annotations_of_its_trigger(checkout: Path, consumer: Declare) -> None:
    consumer("usage_sweep", "x", timeout_seconds="120", extras="", max_scale="1", concurrency="1")
    _, (found,) = read_declarations(checkout)
    assert (found.name, found.timeout_seconds, found.extras) == ("usage-sweep", 120, ())
    assert (found.scale.max, found.concurrency) == (1, 1)
    assert "annotations" not in found.trigger["metadata"]


UNKNOWN_SCALE = """
name: models
deploy:
  annotations: {llmariner.ai/routes: GET /v1/models}
  options: {scale: {least: 1}}
"""

WRONG: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "a route without a method": (("/v1/models",), {}, "is no METHOD /path"),
    "a method of no standard": (("FETCH /v1/models",), {}, "is no METHOD /path"),
    "a path without a slash": (("GET v1/models",), {}, "is no METHOD /path"),
    "a misspelled annotation": (("GET /v1/models",), {"timeout": "9"}, "llmariner.ai/timeout is none of"),
    "a visibility that does not exist": (("GET /v1/models",), {"visibility": "private"}, "must be public or"),
    "a timeout that is no number": (("GET /v1/models",), {"timeout_seconds": "1h"}, "1h"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_an_invalid_declaration_is_named_with_its_file(fault: str, checkout: Path, function: Declare) -> None:
    routes, said, reason = WRONG[fault]
    function("models", *routes, **said)
    with pytest.raises(DeclarationError, match=rf"functions/models/func\.yaml: .*{reason}"):
        read_declarations(checkout)


def test_a_function_has_the_name_of_its_folder(checkout: Path, function: Declare) -> None:
    function("models", "GET /v1/models")
    (checkout / "functions/models").rename(checkout / "functions/adapters")
    with pytest.raises(DeclarationError, match=r"functions/adapters/func\.yaml: the name must be adapters"):
        read_declarations(checkout)


@pytest.mark.parametrize("folder", ["1st", "m" * 58, "models_"])
def test_a_name_is_short_enough_for_its_revisions(folder: str, checkout: Path, function: Declare) -> None:
    function(folder, "GET /v1/models")
    with pytest.raises(DeclarationError, match="is no DNS-1035 label"):
        read_declarations(checkout)


def test_a_function_and_a_consumer_cannot_share_a_name(checkout: Path, function: Declare, consumer: Declare) -> None:
    function("usage", "GET /v1/usage")
    consumer("usage", "x")
    with pytest.raises(DeclarationError, match=r"the name usage is taken by functions/usage/func\.yaml"):
        read_declarations(checkout)


def test_a_consumer_is_the_subscriber_of_its_own_trigger(checkout: Path, consumer: Declare) -> None:
    consumer("usage", "x")
    path = checkout / "eventing/usage/trigger.yaml"
    path.write_text(path.read_text().replace("kind: Service\n      name: usage", "kind: Service\n      name: other"))
    with pytest.raises(DeclarationError, match="must be the Knative Service usage"):
        read_declarations(checkout)


def test_a_missing_field_is_named(checkout: Path, function: Declare) -> None:
    function("models", "GET /v1/models")
    path = checkout / "functions/models/func.yaml"
    path.write_text(path.read_text().replace("llmariner.ai/routes", "other/routes"))
    with pytest.raises(DeclarationError, match=r"functions/models/func\.yaml: routes is missing"):
        read_declarations(checkout)


@pytest.mark.parametrize("text", ["deploy: [", "", UNKNOWN_SCALE])
def test_a_file_that_is_not_a_declaration_is_named(text: str, checkout: Path, function: Declare) -> None:
    function("models", "GET /v1/models")
    (checkout / "functions/models/func.yaml").write_text(text)
    with pytest.raises(DeclarationError, match=r"functions/models/func\.yaml: "):
        read_declarations(checkout)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("LLMARINER_PEPPER", "0123456789abcdef0123456789abcdef", "must come from a Secret"),
        ("LLMARINER_DATABASE_URL", "postgresql+psycopg://user:word@host/name", "must come from a Secret"),
        ("OIDC_CLIENT_SECRET", "x", "must come from a Secret"),
        ("HOME", "{{ env:HOME }}", "neither a value nor"),
        ("LLMARINER_PEPPER", "{{ secret:llmariner-secrets }}", "needs both a name and a key"),
        (None, "{{ secret:llmariner-secrets:LLMARINER_PEPPER }}", "needs both a name and a key"),
    ],
)
def test_forbidden_environment_variables_are_rejected(name: str | None, value: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_variables([{"name": name, "value": value}])
