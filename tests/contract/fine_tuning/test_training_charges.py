"""Trained tokens: in the ledger once, at the price of the day, within the budgets of who made the job."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from llmariner.errors import InsufficientQuota, InvalidRequest, TransactionConflict
from llmariner.fine_tuning.hyperparameters import RequestedHyperparameters
from llmariner.fine_tuning.job import Status
from llmariner.fine_tuning.representation import job_object
from llmariner.limits.budgets import Budgets, NewBudget
from llmariner.limits.leases import Leases
from llmariner.limits.rules import Subject
from llmariner.platform.database import Database, ReadSession
from llmariner.platform.events.tables import events
from llmariner.platform.jobs import Phase
from llmariner.tenancy.principal import KeyOwner
from llmariner.usage.charge_policies import Charge, ChargePolicies
from llmariner.usage.ledger import Ledger
from llmariner.usage.tables import ledger_requests

from ..ledgers import assert_rebuilt_equals_stored, expected_rollups, stored_rollups
from .training_desk import TrainingDesk, put_training_price, step

CHECKED = {"type": "checked", "training_file": {"examples": 12, "tokens": 60, "longest": 5}}
PRICE = 3_000_001
"""Nano-dollars per million trained tokens: each token costs 3 of them, and a rounded rest."""


NOON = time.time() // 86400 * 86400 + 43200.0


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database's clock stands still, so that no day ends during a test."""
    monkeypatch.setattr(ReadSession, "now", lambda session: NOON)


@pytest.fixture
def desk(database: Database, owner: KeyOwner, tmp_path: Path) -> TrainingDesk:
    return TrainingDesk(database, owner, tmp_path / "objects")


def entries(desk: TrainingDesk) -> list[tuple[str, int, int]]:
    """The ledger's entries: model, trained tokens, nano-dollars."""
    c = ledger_requests.c
    with desk.database.read() as session:
        rows = session.rows(select(c.model, c.trained_tokens, c.cost, c.request_id).order_by(c.request_id))
    assert_rebuilt_equals_stored(desk.database, [row.request_id for row in rows])
    return [(row.model, row.trained_tokens, row.cost) for row in rows]


def budget(desk: TrainingDesk, kind: str, amount: int, **fields: object) -> str:
    """The id of a new budget of a day."""
    ids = {"project": desk.project_id, "key": desk.caller.key_id or desk.caller.user_id}
    subject = Subject(desk.owner.organization_id, kind, ids[kind])
    return Budgets(desk.database).put(None, subject, "day", NewBudget(amount, **fields)).id  # type: ignore[arg-type]


def spent(desk: TrainingDesk, budget_id: str) -> int:
    return Leases(desk.database, {}).quota_states([budget_id])[budget_id].spent


def test_tokens_are_charged_once_however_they_are_reported(desk: TrainingDesk) -> None:
    put_training_price(desk.database, "*", PRICE)
    counted = budget(desk, "project", 10**9)
    job_id = desk.training()
    model = desk.get(job_id).output_model
    for _ in range(3):  # the answer to a report was lost
        desk.report(job_id, 1, step(1), step(2))
    assert entries(desk) == [(model, 20, 60)]
    state = desk.result(job_id, 1, "state", b"state of step 2")
    desk.report(job_id, 1, {"type": "state", "step": 2, "file_id": state}, step(3), step(4))
    assert (desk.get(job_id).trained_tokens, entries(desk)) == (40, [(model, 40, 120)])
    desk.scripted.end(f"{job_id}-1", Phase.FAILED, code="interrupted")
    desk.reconciled(job_id)
    desk.reconciled(job_id)
    desk.scripted.run(f"{job_id}-2")
    desk.report(job_id, 2, {"type": "training", "step": 2, "total_steps": 6}, step(3))
    assert desk.get(job_id).step == 3
    assert entries(desk) == [(model, 40, 120)], "what is trained again is not charged again"
    desk.report(job_id, 2, step(4), step(5))
    assert entries(desk) == [(model, 50, 150)]
    job = desk.finish(job_id, 2)
    assert job.status is Status.SUCCEEDED
    assert (job.trained_tokens, job.cost, entries(desk)) == (120, 360, [(model, 120, 360)])
    assert spent(desk, counted) == 360
    assert stored_rollups(desk.database) == expected_rollups(desk.database)
    assert (job_object(job)["trained_tokens"], job_object(job)["cost_usd"]) == (120, 3.6e-7)
    assert Ledger(desk.database).interrupt(unseen_for=0) == 0


def test_tokens_cost_what_is_charged_when_they_are_trained_also_within_a_day(
    desk: TrainingDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [NOON]
    monkeypatch.setattr(ReadSession, "now", lambda session: clock[0])
    put_training_price(desk.database, "*", PRICE)
    counted, job_id = budget(desk, "project", 10**9), desk.training()
    costs = []
    for number, charge in enumerate((Charge.TOKENS, Charge.DEVICES, Charge.DEVICES, Charge.BOTH), start=1):
        clock[0] += 10
        ChargePolicies(desk.database).set(desk.caller, charge, valid_from=None)
        clock[0] += 0.5
        desk.report(job_id, 1, step(number))
        costs.append(desk.get(job_id).cost)
    assert costs == [30, 30, 30, 60]
    assert sum(entry[2] for entry in entries(desk)) == spent(desk, counted) == 60
    assert stored_rollups(desk.database) == expected_rollups(desk.database)


def test_a_report_that_is_sent_by_many_at_once_is_charged_once(desk: TrainingDesk) -> None:
    put_training_price(desk.database, "*", PRICE)
    counted = budget(desk, "project", 10**9)
    job_id = desk.training()
    worker = desk.worker(job_id, 1)
    with ThreadPoolExecutor(8) as pool:
        reports = [
            pool.submit(desk.tuning.workers.report, worker, [step(number)]) for number in (1, 3, 2, 3, 3, 2, 1, 3)
        ]
    failures = [type(each.exception()) for each in reports if each.exception() is not None]
    assert set(failures) <= {TransactionConflict}, "which a process repeats"
    desk.report(job_id, 1, step(3))
    assert ([entry[1:] for entry in entries(desk)], desk.get(job_id).trained_tokens) == ([(30, 90)], 30)
    assert spent(desk, counted) == 90


def test_a_budget_that_the_last_step_before_a_pause_spends_leaves_the_job_resumable(desk: TrainingDesk) -> None:
    put_training_price(desk.database, "smol", PRICE)
    budget(desk, "project", 360)
    job_id = desk.training()
    budget(desk, "project", 30)
    desk.report(job_id, 1, step(1), {"type": "paused", "step": 1})
    budget(desk, "project", 1000)
    desk.jobs.resume(desk.caller, job_id)
    assert desk.get(job_id).status is Status.QUEUED


@pytest.mark.parametrize("tokens", [-1, 121, 2**60, "9", None, 1.5, True])
def test_false_counts_charge_nothing(desk: TrainingDesk, tokens: object) -> None:
    put_training_price(desk.database, "smol", PRICE)
    job_id = desk.training()
    with pytest.raises(InvalidRequest) as raised:
        desk.report(job_id, 1, step(1), step(2, trained_tokens=tokens))
    assert raised.value.param == "records.trained_tokens"
    assert (entries(desk), desk.get(job_id).trained_tokens, desk.get(job_id).step) == ([], 0, 0)


def test_a_canceled_job_has_paid_for_what_was_trained(desk: TrainingDesk) -> None:
    put_training_price(desk.database, "*", PRICE)
    job_id = desk.training()
    desk.report(job_id, 1, step(2))
    desk.jobs.cancel(desk.caller, job_id)
    assert [entry[1:] for entry in entries(desk)] == [(20, 60)]
    assert desk.get(job_id).cost == 60


def test_the_estimate_is_in_the_job_before_it_trains(desk: TrainingDesk) -> None:
    put_training_price(desk.database, "smol", PRICE)
    job_id = desk.start(hyperparameters=RequestedHyperparameters(n_epochs=2))
    nothing = {"tokens": None, "seconds": None, "cost_usd": None, "seconds_left": None, "gate": None}
    assert job_object(desk.get(job_id))["estimate"] == nothing
    desk.report(job_id, 0, CHECKED)
    found = job_object(desk.get(job_id))["estimate"]
    # 135 million parameters at six operations each, 5e10 a second.
    assert found["seconds"] == found["seconds_left"] == pytest.approx(120 * 6 * 135e6 / 5e10)
    assert (found["tokens"], found["cost_usd"]) == (120, 3.6e-7)
    desk.reconciled(job_id)
    desk.scripted.run(f"{job_id}-1")
    desk.report(job_id, 1, {"type": "training", "step": 0, "total_steps": 6}, step(1, tokens_per_second=40.0))
    found = job_object(desk.get(job_id))["estimate"]
    assert found["seconds_left"] == pytest.approx(110 / 40)
    desk.report(job_id, 1, step(2, tokens_per_second=90.0))
    assert desk.get(job_id).tokens_per_second == pytest.approx(50.0), "one step is no trend"
    second = desk.start()
    desk.report(second, 0, CHECKED)
    assert desk.get(second).estimate_seconds == pytest.approx(480 / 50), "as fast as the job before"
    assert desk.get(second).estimate_cost == 1440


@pytest.mark.parametrize("speed", [0.0, -5.0, 5e-324, 1e308])
def test_a_false_speed_breaks_no_estimate(desk: TrainingDesk, speed: float) -> None:
    job_id = desk.training()
    desk.report(job_id, 1, step(1, tokens_per_second=speed))
    second = desk.start()
    desk.report(second, 0, CHECKED)
    for found in (job_object(desk.get(job_id)), job_object(desk.get(second))):
        assert 0 <= found["estimate"]["seconds_left"] <= 480_000
        assert found["estimated_finish"] is not None


def test_a_budget_that_does_not_cover_the_estimate_ends_the_job_before_it_costs(desk: TrainingDesk) -> None:
    short = budget(desk, "key", 359)
    free = desk.training()
    assert desk.get(free).status is Status.RUNNING, "what costs nothing needs no budget"
    put_training_price(desk.database, "smol", PRICE)
    job_id = desk.start(hyperparameters=RequestedHyperparameters(n_epochs=2))
    desk.report(job_id, 0, CHECKED)
    job = desk.get(job_id)
    assert (job.status, job.error_code) == (Status.FAILED, "insufficient_quota")
    assert job.error_message is not None
    assert f"'{short}' of the key has 3.59e-07 left" in job.error_message
    budget(desk, "key", 359, hard=False)
    assert desk.get(desk.training()).status is Status.RUNNING, "a soft budget refuses nothing"
    assert entries(desk) == []


def test_a_job_pauses_when_a_budget_is_spent_and_resumes_when_it_allows_it(desk: TrainingDesk) -> None:
    put_training_price(desk.database, "smol", PRICE)
    small = budget(desk, "project", 400)
    job_id, other = desk.training(), desk.training()
    assert desk.report(job_id, 1, step(6, trained_tokens=100)) == "continue"
    assert desk.report(other, 1, step(3, trained_tokens=40)) == "pause"
    assert (
        desk.messages(other)[-1]
        == f"The budget '{small}' is spent: the job pauses. Resume it when the budget allows it."
    )
    with pytest.raises(InsufficientQuota, match=small):
        desk.jobs.resume(desk.caller, other)
    assert desk.report(other, 1, step(3, trained_tokens=40)) == "pause", "the pause is not taken back"
    desk.report(other, 1, {"type": "paused", "step": 3})
    assert desk.get(other).status is Status.PAUSED
    with pytest.raises(InsufficientQuota, match=small):
        desk.jobs.resume(desk.caller, other)
    assert desk.get(other).status is Status.PAUSED
    assert spent(desk, small) == 420, "what was trained is counted, beyond the budget too"
    with desk.database.read() as session:
        alerts = select(func.count()).where(events.c.type == "ai.llmariner.budget.alert.v1")
        assert session.value(alerts) == 1
    budget(desk, "project", 10_000)
    desk.jobs.resume(desk.caller, other)
    assert desk.get(other).status is Status.QUEUED
    job = desk.finish(job_id)
    assert (job.status, job.trained_tokens) == (Status.SUCCEEDED, 120)


def test_a_training_over_midnight_counts_in_both_days(desk: TrainingDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    put_training_price(desk.database, "smol", PRICE)
    job_id = desk.training()
    desk.report(job_id, 1, step(2))
    monkeypatch.setattr(ReadSession, "now", lambda session: NOON + 86400)
    desk.report(job_id, 1, step(4))
    assert [entry[1:] for entry in entries(desk)] == [(20, 60), (20, 60)]
    assert (desk.get(job_id).trained_tokens, desk.get(job_id).cost) == (40, 120)
