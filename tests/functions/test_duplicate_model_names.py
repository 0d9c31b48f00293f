"""Nothing is revealed of another project's model of the same name."""

from __future__ import annotations

import json
import time

import pytest

from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.serving.static import StaticServing

from .company import Company
from .conftest import Ask
from .installation import Installation


def test_only_the_projects_own_model_is_returned(
    installation: Installation, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    company, context = Company(installation, ask), installation.context
    name, now = f"same-{company.number}", time.time()
    ids = []
    for project in (company.speech, company.vision):
        new = NewModel(name, SourceRepository.HUGGING_FACE, "org/x", project_id=project)
        ids.append(context.registry.create(new).id)
        context.registry.mark_loaded(ids[-1], folder="hf://org/x", size_bytes=1, task=Task.GENERATE)
    theirs, mine = ids
    context.registry.record_wake(theirs, 7.0)
    context.waiting_requests.report("process", {theirs: 3})
    identity = {"organization_id": company.id, "project_id": company.speech, "user_id": "u", "key_id": "k"}
    counts = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens"), 1)
    event = {"request_id": f"r-{name}", "sequence": 0, "kind": "admitted", "at": now, "admitted_at": now}
    context.ledger.record([{**event, **identity, **counts, "model": name, "route": "chat_completions"}])
    monkeypatch.setattr(context, "serving", StaticServing(json.dumps({mine: "http://127.0.0.1:1"})))

    def reported(by: str) -> tuple[object, ...]:
        answer = company.ask(f"GET /v1/models/{name}", by=by)
        assert answer.status == 200
        serving = answer.json["serving"]
        said = (serving["phase"], serving["requests_waiting"], serving["wake_seconds"]["count"])
        return (*said, serving["last_request_at"])

    assert reported("mia") == ("ready", 0, 0, None)
    context.waiting_requests.report("process", {theirs: 3, mine: 1})
    monkeypatch.setattr(context, "serving", StaticServing(json.dumps(dict.fromkeys(ids, "http://127.0.0.1:1"))))
    assert reported("mia") == ("ready", 1, 0, None)
    assert reported("sam") == ("ready", 3, 1, pytest.approx(now))
