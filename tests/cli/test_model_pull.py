"""`llma models pull` follows a model from its registration to its final state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from cli.conftest import FakePlatform, Llma

GET = "GET /models/a/b"


def model(status: str, message: str = "", progress: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "a/b",
        "loading_status": f"MODEL_LOADING_STATUS_{status}",
        "loading_status_message": message,
        "loading_progress": progress,
        **more,
    }


def test_a_missing_model_is_registered_and_followed(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_error(GET, 404, code="model_not_found")
    platform.respond("POST /models", model("REQUESTED"))
    platform.respond_next(
        GET,
        model("LOADING", "downloading", 0.25),
        model("LOADING", "downloading", 0.5, loading_seconds_left=3700.5),
        model("LOADING", "downloading", 0.65, loading_seconds_left=63.2),
        model("LOADING", "downloading", 0.75),
        model("LOADING", "downloading", 0.79),
        model("SUCCEEDED"),
    )
    result = llma("models", "pull", "a/b", "--source-repository", "ollama", "--model-file-location", "x")
    assert (result.code, result.out) == (0, "a/b is loaded.\n")
    body = {"id": "a/b", "source_repository": "OLLAMA", "model_file_location": "x"}
    assert [request.body for request in platform.requests if request.method == "POST"] == [body]
    assert result.err.splitlines() == [
        "a/b: requested",
        "a/b: loading, downloading, 25%",
        "a/b: loading, downloading, about 1 h 1 min left, 50%",
        "a/b: loading, downloading, about 1 min 3 s left, 65%",
        "a/b: loading, downloading, 75%",
        "a/b: succeeded",
    ]


def test_a_local_folder_may_be_a_relative_path(
    llma: Llma, platform: FakePlatform, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    platform.respond("POST /models", model("REQUESTED"))
    for given, sent in (("w", f"{home}/w"), ("~/w/", f"{home}/w"), ("/a/w", "/a/w"), ("s3://b/w", "s3://b/w")):
        line = ("models", "create", "base", "m", "--source-repository", "local", "--model-file-location", given)
        assert llma(*line).code == 0
        assert platform.requests[-1].body["model_file_location"] == sent
    llma("models", "create", "base", "m", "--source-repository", "hugging-face", "--model-file-location", "org/w")
    assert platform.requests[-1].body["model_file_location"] == "org/w"


def test_an_existing_model_is_not_registered_again(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(GET, model("LOADING"), model("SUCCEEDED"))
    assert llma("models", "pull", "a/b").code == 0
    assert {request.method for request in platform.requests} == {"GET"}


def test_a_failed_load_is_an_error_with_its_reason(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(GET, model("LOADING"), model("FAILED", loading_failure_reason="disk full."))
    result = llma("models", "pull", "a/b")
    assert (result.code, result.out) == (5, "")
    assert "loading a/b failed: disk full." in result.err
    assert "llma models retry a/b" in result.err


def test_an_error_other_than_not_found_registers_nothing(llma: Llma, platform: FakePlatform) -> None:
    platform.respond_error(GET, 403)
    assert llma("models", "pull", "a/b").code == 3
    assert len(platform.requests) == 1


def test_json_is_the_models_final_state(llma: Llma, platform: FakePlatform) -> None:
    platform.respond(GET, model("LOADING"), model("SUCCEEDED"))
    assert llma("models", "pull", "a/b", "-o", "json").json == model("SUCCEEDED")
