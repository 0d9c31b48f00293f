"""Promotions: which results move an alias, and the trail from a file to the alias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from llmariner.audit.tables import audit_log
from llmariner.errors import Conflict, InvalidRequest, NotFound, PermissionDenied
from llmariner.files.file import NewFile
from llmariner.files.purposes import Purpose
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.job import FineTuningJob, Status
from llmariner.fine_tuning.promotion import Promotion
from llmariner.models.aliases import ModelAliases
from llmariner.models.model import NewModel, SourceRepository
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.tenancy.keys.store import Keys, NewKey
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects

from ..team import Team
from .training_desk import ROWS, TrainingDesk, jsonl

BASE_GATE = Promotion("bot", has_gate=True, better_than="base")


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    found = TrainingDesk(database, owner, tmp_path)
    found.caller = Team(database, owner).admin
    return found


@pytest.fixture
def aliases(database: Database) -> ModelAliases:
    return ModelAliases(database)


def held_out(desk: TrainingDesk) -> str:
    return desk.upload(jsonl(ROWS), NewFile("held_out.jsonl", Purpose.FINE_TUNE, "application/jsonl"))


def trained(desk: TrainingDesk, promotion: Promotion, **losses: Any) -> FineTuningJob:
    return desk.finish(desk.training(promotion=promotion, validation_file=held_out(desk)), **losses)


def result_of(job: FineTuningJob) -> tuple[str, str | None]:
    assert job.status is Status.SUCCEEDED
    assert job.promotion_result is not None
    return job.promotion_result["status"], job.promotion_result["reason"]


@pytest.mark.parametrize(
    ("promotion", "losses", "expected"),
    [
        (Promotion("bot"), {}, ("promoted", None)),
        (Promotion("bot", has_gate=True, maximum=1.5), {"loss": 1.5}, ("promoted", None)),
        (
            Promotion("bot", has_gate=True, maximum=1.5),
            {"loss": 1.6},
            ("rejected", "its validation loss 1.6000 is above 1.5000"),
        ),
        (
            Promotion("bot", has_gate=True, maximum=1.5),
            {},
            ("rejected", "its loss on the validation file was not measured"),
        ),
        (BASE_GATE, {"loss": 1.0, "base_loss": 1.1}, ("promoted", None)),
        (
            BASE_GATE,
            {"loss": 1.1, "base_loss": 1.1},
            ("rejected", "its validation loss 1.1000 is not below the base model's 1.1000"),
        ),
        (
            BASE_GATE,
            {"loss": 1.1},
            ("rejected", "the base model's loss on the validation file was not measured"),
        ),
    ],
)
def test_a_gate_decides_by_the_losses(
    desk: TrainingDesk,
    aliases: ModelAliases,
    promotion: Promotion,
    losses: dict[str, float],
    expected: tuple[str, str | None],
) -> None:
    aliases.create(desk.caller, "bot", "smol", "")
    job = trained(desk, promotion, **losses)
    assert result_of(job) == expected
    assert job.fine_tuned_model == job.output_model
    moved = expected[0] == "promoted"
    found = aliases.get(desk.project_id, "bot")
    assert (found.model, found.revision) == ((job.output_model, 2) if moved else ("smol", 1))
    assert desk.outbox(job.id).count("promotion_decided") == 1
    assert any(("points at" if moved else "was not moved") in each for each in desk.messages(job.id))
    if moved:
        [last], _ = aliases.revisions(desk.project_id, "bot", after=None, limit=1)
        assert (last.cause.value, last.fine_tuning_job_id, last.user_id) == ("promoted", job.id, desk.caller.user_id)
        assert aliases.roll_back(desk.caller, "bot", None, "").model == "smol"


def test_a_decision_is_made_once(desk: TrainingDesk, aliases: ModelAliases) -> None:
    job = trained(desk, Promotion("bot"), loss=1.0)
    aliases.create(desk.caller, "other", "smol", "")
    aliases.move(desk.caller, "bot", "smol", "by hand")
    for _ in range(3):
        desk.reconciled(job.id)
    assert aliases.get(desk.project_id, "bot").model == "smol"
    assert desk.outbox(job.id).count("promotion_decided") == 1


def test_the_process_is_asked_for_the_base_models_loss_where_a_gate_needs_it(desk: TrainingDesk) -> None:
    for promotion, asked in ((None, False), (Promotion("bot"), False), (BASE_GATE, True)):
        job_id = desk.training(promotion=promotion, validation_file=held_out(desk))
        assert desk.tuning.workers.plan(desk.worker(job_id, 1))["measures_base"] is asked


def test_an_alias_that_can_not_be_moved_leaves_the_job_successful(desk: TrainingDesk, aliases: ModelAliases) -> None:
    job_id = desk.training(promotion=Promotion("bot"))
    desk.registry.create(NewModel("bot", SourceRepository.LOCAL, "/x", project_id=desk.project_id))
    status, reason = result_of(desk.finish(job_id))
    assert (status, reason) == ("failed", "'bot' is the id of a model: choose another alias.")
    with pytest.raises(NotFound):
        aliases.get(desk.project_id, "bot")


def test_who_may_not_move_aliases_any_more_moves_none(
    desk: TrainingDesk, aliases: ModelAliases, database: Database
) -> None:
    bound = desk.training(promotion=Promotion("bot"))
    mine = projects.c.id == desk.project_id
    with database.write() as session:
        session.run(update(projects).where(mine).values(model_mode="allow", model_ids='["smol"]'))
    status, reason = result_of(desk.finish(bound))
    assert (status, "listed models" in str(reason)) == ("failed", True)
    with database.write() as session:
        session.run(update(projects).where(mine).values(model_mode=None, model_ids="[]"))
    assert result_of(trained(desk, Promotion("bot")))[0] == "promoted"


def test_who_can_not_move_the_alias_creates_no_such_job(
    desk: TrainingDesk, database: Database, keys: Keys, owner: KeyOwner
) -> None:
    scopes = frozenset({"api.fine_tuning.jobs.write", "api.files.read", "api.files.write"})
    authenticator = Team(database, owner).authenticator
    for name, new in (
        ("scopes", NewKey("no models", scopes)),
        ("models", NewKey("bound", scopes | {"api.model.write"}, allowed_models=("smol", "bot"))),
    ):
        found = authenticator.authenticate(keys.create(owner, new)[1])
        assert found is not None
        with pytest.raises(PermissionDenied) as caught:
            desk.jobs.create(found, desk.new(promotion=Promotion("bot")))
        assert caught.value.param == "promotion", name
    with pytest.raises(Conflict):
        desk.create(promotion=Promotion("smol"))


@pytest.mark.parametrize(
    ("promotion", "param"),
    [
        (Promotion("a/b"), "alias"),
        (Promotion("bot", has_gate=True), "promotion.gate"),
        (Promotion("bot", has_gate=True, maximum=0.0), "promotion.gate.maximum"),
        (Promotion("bot", has_gate=True, maximum=float("nan")), "promotion.gate.maximum"),
        (Promotion("bot", has_gate=True, maximum=1.0, better_than="gpt"), "promotion.gate.better_than"),
        (Promotion("bot", has_gate=True, maximum=1.0), "validation_file"),
    ],
)
def test_a_promotion_that_can_not_be_decided_is_refused(desk: TrainingDesk, promotion: Promotion, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        desk.create(promotion=promotion)
    assert caught.value.param == param


def test_a_file_is_followed_to_the_alias_in_events_and_in_the_audit_log(
    desk: TrainingDesk, aliases: ModelAliases, database: Database
) -> None:
    aliases.create(desk.caller, "bot", "smol", "")
    file_id = desk.upload(jsonl(ROWS))
    numbers = RequestedHyperparameters(n_epochs=2)
    files = {"training_file": file_id, "validation_file": held_out(desk)}
    job_id = desk.create(**files, promotion=BASE_GATE, hyperparameters=numbers)
    desk.reconciled(job_id)
    desk.report(job_id, 0, {"type": "checked", "training_file": {"examples": 12, "tokens": 60, "longest": 5}})
    desk.reconciled(job_id)
    desk.scripted.run(f"{job_id}-1")
    desk.report(job_id, 1, {"type": "training", "step": 0, "total_steps": 6})
    model = desk.finish(job_id, loss=1.0, base_loss=2.0).output_model

    with database.read() as session:
        rows = session.rows(select(events).order_by(events.c.sequence))
        entries = session.rows(select(audit_log).order_by(audit_log.c.sequence))

    def one(type_: str, **fields: Any) -> dict[str, Any]:
        """The data of the only event of a type with these fields."""
        found = [json.loads(row.data) for row in rows if row.type == f"ai.llmariner.{type_}.v1"]
        [data] = [each for each in found if fields.items() <= each.items()]
        return dict(data)

    one("file.created", id=file_id)
    job = one("fine_tuning_job.created", training_file=file_id)
    made = one("model.created", fine_tuning_job_id=job["id"])
    one("model.loaded", id=made["id"])
    decided = one("fine_tuning_job.promotion_decided", id=job["id"], model=made["id"], status="promoted")
    moved = one("model_alias.moved", fine_tuning_job_id=job["id"], model=made["id"])
    assert (made["id"], moved["id"], moved["previous_model"]) == (model, "bot", "smol")
    assert decided["alias_revision"] == moved["revision"] == 2
    assert (decided["validation_loss"], decided["base_validation_loss"]) == (1.0, 2.0)

    audited = {row.type: json.loads(row.payload) for row in entries}
    assert audited["fine_tuning_job.created"]["data"]["training_file"] == file_id
    assert audited["model.created"]["data"]["fine_tuning_job_id"] == job_id
    assert audited["model.created"]["id"] == audited["model_alias.moved"]["data"]["model"] == model
    assert audited["model_alias.moved"]["data"]["fine_tuning_job_id"] == job_id
    actors = [json.loads(row.actor) for row in entries if row.type in ("model.created", "model_alias.moved")]
    assert {actor["session"]["user"]["id"] for actor in actors} == {desk.caller.user_id}
