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
from llmariner.fine_tuning.promotion import GateGrader, Measured, Promotion
from llmariner.fine_tuning.representation import job_object
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.models.aliases import ModelAliases
from llmariner.models.model import NewModel, SourceRepository, Task
from llmariner.platform.database import Database
from llmariner.platform.events.tables import events
from llmariner.tenancy.keys.store import Keys, NewKey
from llmariner.tenancy.principal import KeyOwner
from llmariner.tenancy.tables import projects
from llmariner.usage.tables import prices

from ..team import Team
from .desk import BASE
from .training_desk import ROWS, TrainingDesk, jsonl, step

GRADER = {
    "type": "string_check",
    "name": "exact",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.reference_answer }}",
    "operation": "eq",
}
JUDGE = {
    "type": "score_model",
    "name": "judge",
    "model": "smol",
    "input": [{"role": "user", "content": "Rate {{ sample.output_text }}."}],
}


def graded(**fields: Any) -> Promotion:
    """A promotion with a gate of a grader."""
    return Promotion("bot", has_gate=True, grader=GateGrader(**{"grader": GRADER, **fields}))


BASE_GATE = Promotion("bot", has_gate=True, better_than="base")


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    found = TrainingDesk(database, owner, tmp_path)
    found.caller = Team(database, owner).admin
    return found


@pytest.fixture
def aliases(database: Database) -> ModelAliases:
    return ModelAliases(database)


LINES: dict[str, list[dict[str, Any]]] = {
    "supervised": ROWS,
    "dpo": [
        {
            "input": {"messages": row["messages"][:1]},
            "preferred_output": row["messages"][1:],
            "non_preferred_output": [{"role": "assistant", "content": "Hello."}],
        }
        for row in ROWS
    ],
    "reinforcement": [{"messages": row["messages"][:1], "reference_answer": "Arrr!"} for row in ROWS],
}


def held_out(desk: TrainingDesk, rows: list[dict[str, Any]] = ROWS) -> str:
    return desk.upload(jsonl(rows), NewFile("held_out.jsonl", Purpose.FINE_TUNE, "application/jsonl"))


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
        (graded(margin=0.1), {"loss": 9.0, "grade": 0.3, "base_grade": 0.2}, ("promoted", None)),
        (
            graded(margin=0.1),
            {"loss": 0.1, "grade": 0.29, "base_grade": 0.2},
            ("rejected", "its mean grade 0.2900 does not exceed the base model's 0.2000 by 0.1"),
        ),
        (
            graded(),
            {"grade": 0.5, "base_grade": 0.5},
            ("rejected", "its mean grade 0.5000 does not exceed the base model's 0.5000"),
        ),
        (graded(), {"grade": 0.51, "base_grade": 0.5}, ("promoted", None)),
        # A process may report a grade that nobody asked for.
        (Promotion("bot"), {"grade": 0.5}, ("promoted", None)),
        (BASE_GATE, {"loss": 1.0, "base_loss": 1.1, "grade": 0.5}, ("promoted", None)),
        (
            graded(),
            {"loss": 0.1, "base_loss": 9.0},
            ("rejected", "its answers to the validation file, or the base model's, were not graded"),
        ),
    ],
)
def test_a_gate_decides_by_losses_or_grades(
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
        assert last.reason.startswith("mean grade") is (promotion.grader is not None)
        assert aliases.roll_back(desk.caller, "bot", None, "").model == "smol"


def test_a_job_says_why_answers_were_not_graded(desk: TrainingDesk) -> None:
    problem = "The model 'judge' of the grader can't be asked: it is gone."
    job = trained(desk, graded(), gate_problem=problem)
    assert result_of(job)[0] == "rejected"
    assert desk.messages(job.id).count(f"Answers to the validation file were not graded. {problem}") == 1


def test_both_grades_are_in_the_result_the_event_and_the_history_of_the_alias(
    desk: TrainingDesk, aliases: ModelAliases, database: Database
) -> None:
    job = trained(desk, graded(), grade=0.75, base_grade=0.5)
    shown = job_object(job)["promotion"]
    assert shown["gate"] == {"type": "grader", "grader": GRADER, "margin": 0.0, "max_completion_tokens": 256}
    assert (shown["result"]["grade"], shown["result"]["base_grade"]) == (0.75, 0.5)
    with database.read() as session:
        rows = session.rows(select(events.c.data).where(events.c.type.endswith("promotion_decided.v1")))
    assert [json.loads(row.data)["base_grade"] for row in rows] == [0.5]
    [last], _ = aliases.revisions(desk.project_id, "bot", after=None, limit=1)
    assert last.reason == "mean grade 0.7500, of the base model 0.5000"
    [checkpoint], _ = desk.history.checkpoints(desk.project_id, job.id, after=None, limit=1)
    assert checkpoint.metrics == {"full_valid_grade_mean": 0.75, "base_valid_grade_mean": 0.5}


def test_the_release_before_lets_no_result_pass_a_gate_that_it_does_not_know() -> None:
    stored = graded().to_row()["gate"]
    assert Promotion("bot", True, stored["maximum"], stored["better_than"]).failure(Measured(0.1, 9.0))
    assert Promotion.from_json(graded(margin=0.5).to_row()) == graded(margin=0.5)


@pytest.mark.parametrize("method", ["supervised", "dpo", "reinforcement"])
def test_a_gate_that_a_model_grades_has_answers_of_the_base_model_and_the_result_graded(
    desk: TrainingDesk, method: str
) -> None:
    rows = LINES[method]
    said = {"method": method, **({"grader": GRADER} if method == "reinforcement" else {})}
    job_id = desk.training(rows=rows, validation_file=held_out(desk, rows), promotion=graded(grader=JUDGE), **said)
    plan = desk.tuning.workers.plan(desk.worker(job_id, 1))
    assert (plan["gate_grader"], plan["gate_completion_tokens"], plan["measures_base"]) == (JUDGE, 256, False)
    with desk.database.read() as session:
        left = session.value(select(fine_tuning_jobs.c.grades_left).where(fine_tuning_jobs.c.id == job_id))
    of_method = 2 * 12 * 8 + 3 * 12 if method == "reinforcement" else 0
    assert left == 3 * (of_method + 2 * 12), "three times over, since responses are lost"
    grades, worker = desk.tuning.grades, desk.worker(job_id, 1)
    if method == "reinforcement":
        assert grades.grade_of_job(worker, rows[0], "Arrr!").reward == 1, "by the grader of the method"
    else:
        with pytest.raises(InvalidRequest, match="no answers to grade"):
            grades.grade_of_job(worker, rows[0], "Arrr!")


@pytest.mark.parametrize(
    ("fields", "models"), [({}, 2), ({"hyperparameters": RequestedHyperparameters(2, early_stopping_patience=1)}, 3)]
)
def test_the_estimate_has_the_answers_for_a_gate(desk: TrainingDesk, fields: dict[str, Any], models: int) -> None:
    both = {"type": "multi", "name": "both", "graders": {"a": JUDGE, "b": GRADER}, "calculate_output": "a + b"}
    names = ("valid_from", "created_at", "cached_prompt", "training")
    with desk.database.write() as session:
        million = {"prompt": 1_000_000, "completion": 2_000_000, "request": 7}  # a nano-dollar, two, and a request's
        session.add(prices, id="price_judge", model=BASE, **dict.fromkeys(names, 0), **million)
    plain = desk.get(desk.training(validation_file=held_out(desk), **fields))
    assert (plain.estimate_gate, plain.estimate_cost) == (None, 0)
    promotion = graded(grader=both, max_completion_tokens=10)
    job_id = desk.training(validation_file=held_out(desk), promotion=promotion, **fields)
    job = desk.get(job_id)
    found = job_object(job)["estimate"]
    answers = 12 * models
    templates = -(-len("Rate {{ sample.output_text }}.") // 3)
    cost = answers * (templates + 5 + 10 + 2 * 256 + 7)  # the prompt has the line and the answer
    assert (found["gate"]["answers"], found["gate"]["tokens"]) == (answers, answers * 10)
    assert (found["gate"]["cost_usd"], found["cost_usd"]) == (cost / 1e9, cost / 1e9)
    assert found["tokens"] == plain.estimated_tokens, "answers are not trained"
    assert found["gate"]["seconds"] > 0
    assert found["seconds"] == pytest.approx((plain.estimate_seconds or 0) + found["gate"]["seconds"])
    before = found["seconds_left"]
    assert before == pytest.approx(found["seconds"])
    desk.report(job_id, 1, step(1, tokens_per_second=job.tokens_per_second, trained_tokens=0))
    left = job_object(desk.get(job_id))["estimate"]["seconds_left"]
    assert before - left == pytest.approx(found["gate"]["seconds"] / models), "those of the base model are made"


@pytest.mark.parametrize(
    ("method", "line", "message"),
    [
        ("supervised", {"messages": [{"role": "assistant", "content": "b"}]}, "no question before its answer"),
        ("supervised", {**LINES["supervised"][0], "tools": []}, "'tools' is not available"),
        ("dpo", {**LINES["dpo"][0], "input": {**LINES["dpo"][0]["input"], "tools": []}}, "'tools' is not available"),
        ("reinforcement", {"messages": [{"role": "user", "content": "a"}]}, "'item.reference_answer' of the grader"),
    ],
)
def test_a_line_whose_answers_can_not_be_graded_is_named(
    desk: TrainingDesk, method: str, line: dict[str, Any], message: str
) -> None:
    said = {"method": method, **({"grader": {**GRADER, "reference": "x"}} if method == "reinforcement" else {})}
    validation = held_out(desk, [*LINES[method], line])
    job = desk.get(desk.start(LINES[method], validation_file=validation, promotion=graded(), **said))
    assert (job.status, job.error_code) == ("failed", "invalid_validation_file")
    assert "ine 13" in str(job.error_message)
    assert message in str(job.error_message)


def test_lines_of_a_gate_have_fields_that_its_grader_reads(desk: TrainingDesk) -> None:
    rows = [{**row, "city": "Lima"} for row in ROWS]
    of_city = graded(grader={**GRADER, "reference": "{{ item.city }}"})
    job_id = desk.training(validation_file=held_out(desk, rows), promotion=of_city)
    assert desk.get(job_id).status == "running"
    ungated = desk.get(desk.start(validation_file=held_out(desk, rows)))
    assert "'city' is no field" in str(ungated.error_message)


def test_too_many_lines_are_not_graded(desk: TrainingDesk) -> None:
    job_id = desk.start(validation_file=held_out(desk), promotion=graded())
    found = {"examples": 12, "tokens": 60, "longest": 5}
    desk.report(job_id, 0, {"type": "checked", "training_file": found, "validation_file": {**found, "examples": 1001}})
    job = desk.get(job_id)
    assert (job.status, job.error_code) == ("failed", "invalid_validation_file")


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
        (graded(), "validation_file"),
        (graded(margin=-0.1), "promotion.gate.margin"),
        (graded(margin=float("nan")), "promotion.gate.margin"),
        (graded(max_completion_tokens=0), "promotion.gate.max_completion_tokens"),
        (graded(max_completion_tokens=4096), "promotion.gate.max_completion_tokens"),
        (graded(grader={"type": "python", "name": "x"}), "promotion.gate.grader.type"),
    ],
)
def test_a_promotion_that_can_not_be_decided_is_refused(desk: TrainingDesk, promotion: Promotion, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        desk.create(promotion=promotion)
    assert caught.value.param == param


def test_a_gate_by_a_model_that_the_project_does_not_have_is_refused(desk: TrainingDesk, database: Database) -> None:
    other = Team(database, desk.owner).project()
    desk.registry.create(NewModel("embeds", SourceRepository.LOCAL, "/models/embeds", task=Task.EMBED))
    desk.registry.create(NewModel("theirs", SourceRepository.LOCAL, "/x", project_id=other))
    for name in ("gone", "theirs", "embeds"):
        with pytest.raises(InvalidRequest) as caught:
            desk.create(validation_file=held_out(desk), promotion=graded(grader={**JUDGE, "model": name}))
        assert caught.value.param == "promotion.gate.grader"


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
