"""Failures of models: everyone who sees a model reads the cause, only operators read paths of the machine."""

from __future__ import annotations

import json

from llmariner.models.model import NewModel, SourceRepository
from llmariner.models.representation import model_object
from llmariner.platform.serving import Phase, Status

from .company import Company
from .conftest import Ask
from .installation import Installation

REASON = "No readable config.json in /home/operator/models: it must be a Hugging Face model folder."
NAME = "org/unreadable"


def test_local_paths_are_visible_to_operators_only(installation: Installation, ask: Ask) -> None:
    company, registry = Company(installation, ask), installation.context.registry
    registry.create(NewModel(NAME, SourceRepository.LOCAL, "/home/operator/models"))
    registry.mark_failed(NAME, REASON)

    def seen(by: str) -> str:
        shown = company.ask(f"GET /v1/models/{NAME}", by=by, query="include_loading_model=true").json
        listed = company.ask("GET /v1/models", by=by, query="include_loading_models=true&limit=500").json["data"]
        reasons = {each["loading_failure_reason"] for each in (shown, *listed) if each["id"] == NAME}
        (reason,) = reasons
        return str(reason)

    assert seen("admin") == REASON
    for name in ("boss", "lead", "mia", "vic", "outsider"):
        if name != "boss":  # an organization's key works in no project
            assert seen(name) == REASON.replace("/home/operator/models:", "[path]"), name
    events = company.ask("GET /v1/events", by="mia", query="limit=100").json["data"]
    reported = [event for event in events if event["data"].get("id") == NAME]
    assert any("No readable config.json" in json.dumps(event) for event in reported)
    assert "operator" not in json.dumps(reported)


def test_engine_output_is_visible_to_operators_only(installation: Installation) -> None:
    model = installation.context.registry.create(NewModel("org/ended", SourceRepository.HUGGING_FACE, "org/ended"))
    status = Status(Phase.FAILED, message="It ended.", detail="at /home/operator/x")
    assert model_object(model, status)["serving"]["message"] == "It ended."
    assert model_object(model, status, with_diagnostics=True)["serving"]["message"] == "It ended.\nat /home/operator/x"
    assert Status.from_json(status.to_json()) == status
