"""Limits: their subjects, and that instances which lease concurrently never get more than the limit."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, select, update

from llmariner.audit.tables import audit_log
from llmariner.errors import InvalidRequest, NotFound
from llmariner.gateway.control_plane.port import NO_AMOUNTS, Amounts, Key, LeaseGrant, LeaseReport, LeaseRequest
from llmariner.limits.budgets import Budgets, NewBudget
from llmariner.limits.leases import Leases, default_limit_id
from llmariner.limits.quota_state import LEASE_SECONDS
from llmariner.limits.revisions import Revisions
from llmariner.limits.rules import Limits, Subject, new_rule_row
from llmariner.limits.tables import allowances
from llmariner.limits.tables import limits as table
from llmariner.platform.database import Database
from llmariner.platform.database.revisions import next_revision
from llmariner.platform.events.tables import events
from llmariner.tenancy.keys.store import KeyOwner
from llmariner.tenancy.principal import Caller
from llmariner.usage.prices import NewPrice, Prices
from llmariner.usage.tables import ledger_requests, prices

from ..team import Team

DEFAULT = {"requests_per_minute": 640, "tokens_per_minute": 64_000}
AtOnce = Callable[[Iterable[Callable[[], Any]]], list[Any]]


@pytest.fixture
def limits(database: Database) -> Limits:
    return Limits(database)


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database, DEFAULT)


@pytest.fixture
def actor(owner: KeyOwner) -> Caller:
    scopes: frozenset[str] = frozenset()
    return Caller(owner.user_id, "a@b.c", owner.organization_id, owner.project_id, "owner", "owner", scopes)


@pytest.fixture
def project(owner: KeyOwner) -> Subject:
    return Subject(owner.organization_id, "project", owner.project_id)


def key(owner: KeyOwner, id_: str = "key_1", *, unlimited: bool = False) -> Key:
    scopes: frozenset[str] = frozenset()
    return Key(id_, owner.project_id, owner.organization_id, owner.user_id, scopes, None, unlimited)


def first_lease(
    leases: Leases, caller: Key, replica: str = "req_a", model: str = "m", tokens: int = 1
) -> dict[str, LeaseGrant]:
    """A caller's first request: grants by rule."""
    answer = leases.lease(LeaseRequest(replica, time.time(), (), caller, model, Amounts(1, tokens, 1)))
    assert answer.rules is not None
    return {grant.rule_id: grant for grant in answer.grants}


def report_usage(leases: Leases, rule: str, replica: str, used: int, wants: int, *, least: int = 0) -> LeaseGrant:
    report = LeaseReport(rule, Amounts(used), NO_AMOUNTS, Amounts(wants), Amounts(least))
    return leases.lease(LeaseRequest(replica, time.time(), [report])).grants[0]


def test_a_key_without_a_limit_has_the_default_limit(leases: Leases, owner: KeyOwner) -> None:
    grants = first_lease(leases, key(owner), tokens=100)
    assert list(grants) == [default_limit_id("key_1")]
    # A part of the limit, and what the first request needs.
    assert grants[default_limit_id("key_1")].granted == Amounts(10, 1000, 0, 0)


def test_applicable_limits_are_those_of_all_the_callers_subjects(
    leases: Leases, limits: Limits, actor: Caller, owner: KeyOwner
) -> None:
    organization = owner.organization_id
    subjects = {"organization": organization, "project": owner.project_id, "user": owner.user_id, "key": "key_1"}
    made = {
        limits.put(actor, Subject(organization, *each), "*", {"requests_per_minute": 9}).id for each in subjects.items()
    }
    limits.put(actor, Subject(organization, "key", "key_2"), "*", {"requests_per_minute": 9})
    limits.put(actor, Subject(organization, "project", "proj_2"), "*", {"requests_per_minute": 9})
    assert set(first_lease(leases, key(owner))) == made
    # The other key has a limit of its own, and so not the default one.
    assert len(first_lease(leases, key(owner, "key_2"), replica="req_b")) == 4


def test_a_limit_of_one_model_is_leased_only_for_that_model(
    leases: Leases, limits: Limits, actor: Caller, owner: KeyOwner, project: Subject
) -> None:
    limit = limits.put(actor, project, "large", {"tokens_per_minute": 100})
    assert limit.id in first_lease(leases, key(owner), model="large")
    assert limit.id not in first_lease(leases, key(owner, "key_2"), model="small")


def test_an_exempt_key_has_no_limits(
    leases: Leases, limits: Limits, actor: Caller, owner: KeyOwner, project: Subject
) -> None:
    limits.put(actor, project, "*", {"requests_per_minute": 1})
    assert first_lease(leases, key(owner, unlimited=True)) == {}


def test_limits_of_other_subjects_do_not_apply(
    leases: Leases, limits: Limits, actor: Caller, owner: KeyOwner, other_owner: KeyOwner
) -> None:
    limits.put(actor, Subject(other_owner.organization_id, "user", owner.user_id), "*", {"requests_per_minute": 1})
    assert list(first_lease(leases, key(owner))) == [default_limit_id("key_1")]


def test_concurrent_leases_never_exceed_the_limit(
    leases: Leases, limits: Limits, actor: Caller, project: Subject, run_concurrently: AtOnce
) -> None:
    limit = limits.put(actor, project, "*", {"requests_per_day": 1000})

    def process(number: int) -> int:
        used, held = 0, 0
        for _ in range(20):
            grant = report_usage(leases, limit.id, f"req_{number}", used, 50, least=1)
            held = grant.granted.requests
            used += held
        report_usage(leases, limit.id, f"req_{number}", used, 0)
        return used

    used = run_concurrently(partial(process, number) for number in range(8))
    assert all(isinstance(each, int) for each in used), used
    assert sum(used) == 1000


def test_a_lease_needs_a_few_statements_for_any_number_of_rules(
    leases: Leases, limits: Limits, actor: Caller, owner: KeyOwner, database: Database
) -> None:
    made = [
        limits.put(actor, Subject(owner.organization_id, "key", f"key_{number}"), "*", {"requests_per_day": 10}).id
        for number in range(50)
    ]
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        holds = [LeaseReport(rule, NO_AMOUNTS, NO_AMOUNTS, Amounts(1), NO_AMOUNTS) for rule in made]
        grants = leases.lease(LeaseRequest("req_a", time.time(), holds)).grants
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    assert [grant.granted.requests for grant in grants] == [1] * 50
    # BEGIN, the locking read, the clock, the write.
    assert len(statements) <= 4, statements


def test_concurrency_slots_are_leased_and_returned(
    leases: Leases, limits: Limits, actor: Caller, project: Subject
) -> None:
    limit = limits.put(actor, project, "*", {"concurrent_requests": 5})

    def places(replica: str, taken: int, wants: int) -> LeaseGrant:
        report = LeaseReport(limit.id, NO_AMOUNTS, Amounts(0, 0, taken), Amounts(0, 0, wants), Amounts(0, 0, 1))
        return leases.lease(LeaseRequest(replica, time.time(), [report])).grants[0]

    assert places("req_a", 0, 4).granted.slots == 4
    assert places("req_b", 0, 4).granted.slots == 1
    refused = places("req_c", 0, 1)
    assert refused.granted.slots == 0
    assert refused.retry_after is not None
    places("req_a", 2, 0)
    assert places("req_c", 0, 1).granted.slots == 1


def test_an_expired_instance_is_settled_from_the_ledger(
    leases: Leases, limits: Limits, actor: Caller, owner: KeyOwner, project: Subject, database: Database
) -> None:
    limit = limits.put(actor, project, "*", {"requests_per_day": 100, "tokens_per_day": 1000})
    report = LeaseReport(limit.id, NO_AMOUNTS, NO_AMOUNTS, Amounts(40, 400), NO_AMOUNTS)
    dead = f"req_{'d' * 20}"
    leases.lease(LeaseRequest(dead, time.time() - 60, [report]))
    times = {"admitted_at": time.time() - 30, "seen_at": time.time() - 20}
    whose = {"organization_id": owner.organization_id, "project_id": owner.project_id, "user_id": owner.user_id}
    counts = {"prompt_tokens": 3, "completion_tokens": 7, "cached_tokens": 0}
    with database.write() as session:
        for number in range(3):
            session.add(
                ledger_requests,
                request_id=f"{dead}{number:08x}",
                **whose,
                key_id="key_1",
                model="m",
                route="chat_completions",
                outcome="open",
                status=0,
                **times,
                **counts,
            )
    assert report_usage(leases, limit.id, "req_b", 0, 1000).granted.requests <= 60
    expire(database, limit.id)
    report = LeaseReport(limit.id, NO_AMOUNTS, NO_AMOUNTS, Amounts(1000, 10_000), NO_AMOUNTS)
    assert leases.lease(LeaseRequest("req_b", time.time(), [report])).grants[0].granted == Amounts(97, 970)


def expire(database: Database, rule: str) -> None:
    """Make all leases expire, as if no instance had reported for the length of a lease."""
    with database.write() as session:
        state = json.loads(session.value(select(allowances.c.state).where(allowances.c.id == rule)))
        for part in state["replicas"].values():
            part[3] -= LEASE_SECONDS + 1
        session.run(update(allowances).where(allowances.c.id == rule).values(state=json.dumps(state)))


def test_a_changed_limit_keeps_its_id_and_usage(
    leases: Leases, limits: Limits, actor: Caller, project: Subject
) -> None:
    limit = limits.put(actor, project, "*", {"requests_per_day": 10, "tokens_per_day": 5})
    report_usage(leases, limit.id, "req_a", 8, 0)
    changed = limits.put(actor, project, "*", {"requests_per_day": 20, "tokens_per_day": None})
    assert (changed.id, changed.thresholds) == (limit.id, {"requests_per_day": 20})
    assert report_usage(leases, limit.id, "req_a", 8, 100).granted.requests == 12


def test_the_number_of_models_with_limits_per_subject_is_bounded(
    limits: Limits, actor: Caller, project: Subject
) -> None:
    with limits._database.write() as session:
        session.insert_if_absent(
            table, [new_rule_row(f"limit_{n}", project, 1) | {"model": f"m{n}"} for n in range(200)]
        )
    with pytest.raises(InvalidRequest, match="200 models"):
        limits.put(actor, project, "one-more", {"requests_per_day": 1})
    assert limits.put(actor, project, "m7", {"requests_per_day": 1}).id == "limit_7"
    limits.put(actor, Subject(project.organization_id, "organization", project.organization_id), "one-more", {})
    limits.remove(actor, project.organization_id, "limit_8")
    limits.put(actor, project, "one-more", {"requests_per_day": 1})


def test_gateway_instances_get_every_change(
    leases: Leases, limits: Limits, actor: Caller, project: Subject, database: Database
) -> None:
    def newest() -> int:
        return Revisions(database).latest().limits

    seen = [newest()]
    limit = limits.put(actor, project, "*", {"requests_per_day": 10})
    seen.append(newest())
    limits.put(actor, project, "*", {"requests_per_day": 11})
    seen.append(newest())
    limits.remove(actor, project.organization_id, limit.id)
    seen.append(newest())
    assert all(before < after for before, after in itertools.pairwise(seen))
    assert (
        leases.lease(LeaseRequest("req_a", 0, [LeaseReport(limit.id, NO_AMOUNTS, NO_AMOUNTS, Amounts(1))])).grants == []
    )


def test_gateway_instances_get_a_price_when_it_becomes_effective(database: Database) -> None:
    price = {"model": "m", "prompt": 1, "cached_prompt": 1, "completion": 1, "request": 0, "created_at": 0}
    now = time.time()
    with database.write() as session:
        session.add(prices, id="price_1", valid_from=now - 10, **price)
        session.add(prices, id="price_2", valid_from=now + 0.5, **price)
        next_revision(session, "prices")
    before = Revisions(database).latest().prices
    time.sleep(0.6)
    assert Revisions(database).latest().prices > before


def test_gateway_instances_get_a_price_that_starts_before_the_newest(database: Database, actor: Caller) -> None:
    list_ = Prices(database)
    list_.set(actor, NewPrice("m", 10, 20))
    before = Revisions(database).latest().prices
    list_.set(actor, NewPrice("other", 10, 20, valid_from=time.time() - 30))
    assert Revisions(database).latest().prices > before


def test_every_change_is_in_the_audit_log(limits: Limits, actor: Caller, project: Subject, database: Database) -> None:
    limit = limits.put(actor, project, "*", {"requests_per_day": 10})
    limits.remove(actor, project.organization_id, limit.id)
    with database.read() as session:
        rows = session.rows(select(audit_log).order_by(audit_log.c.sequence))
    assert [row.type for row in rows] == ["rate_limit.updated", "rate_limit.deleted"]
    assert json.loads(rows[0].payload)["id"] == limit.id
    assert {row.project_id for row in rows} == {project.id}


def test_another_organizations_limits_are_not_found(
    limits: Limits, actor: Caller, project: Subject, other_owner: KeyOwner
) -> None:
    limit = limits.put(actor, project, "*", {"requests_per_day": 10})
    with pytest.raises(NotFound, match=limit.id):
        limits.get(other_owner.organization_id, limit.id)
    with pytest.raises(NotFound, match=limit.id):
        limits.remove(actor, other_owner.organization_id, limit.id)
    assert limits.all(other_owner.organization_id) == []
    assert limits.all(project.organization_id) == [limit]


@pytest.mark.parametrize("most", [{"requests_per_day": -1}, {"requests_per_hour": 1}, {"tokens_per_day": 2**63}])
def test_an_invalid_limit_is_rejected(limits: Limits, actor: Caller, project: Subject, most: dict[str, int]) -> None:
    with pytest.raises(InvalidRequest, match=next(iter(most))):
        limits.put(actor, project, "*", most)


def test_concurrent_first_limits_create_one_limit(
    limits: Limits, actor: Caller, project: Subject, run_concurrently: AtOnce
) -> None:
    made = run_concurrently([lambda: limits.put(actor, project, "*", {"requests_per_day": 10})] * 8)
    assert len({limit.id for limit in made}) == 1


def test_every_alert_is_emitted_once_per_amount_besides_the_budget(
    database: Database, leases: Leases, actor: Caller, owner: KeyOwner, project: Subject
) -> None:
    budgets = Budgets(database)
    hard = budgets.put(actor, project, "month", NewBudget(1000, alert_ratio=None))
    channel = {"type": "email", "recipients": ["ann@example.org"], "subject_prefix": None}
    alerts = [budgets.add_alert(actor, project, "month", amount, channel) for amount in (300, 600)]
    first_lease(leases, key(owner))

    def spend(used: int) -> list[tuple[str, int, list[str]]]:
        holds = [LeaseReport(rule.id, Amounts(money=used), NO_AMOUNTS, NO_AMOUNTS) for rule in (hard, *alerts)]
        leases.lease(LeaseRequest("req_a", time.time(), holds))
        query = select(events.c.data).where(events.c.type == "ai.llmariner.budget.alert.v1").order_by(events.c.sequence)
        with database.read() as session:
            reported = [json.loads(row.data) for row in session.rows(query)]
        return [(each["id"], each["amount_nano_usd"], each["notification_channel"]["recipients"]) for each in reported]

    recipients = ["ann@example.org"]
    assert spend(299) == []
    assert spend(300) == [(alerts[0].id, 300, recipients)]
    assert len(spend(599)) == 1
    assert spend(700)[1:] == [(alerts[1].id, 600, recipients)]
    budgets.update_alert(actor, alerts[0], 800, channel)
    assert len(spend(799)) == 2
    assert spend(800)[2:] == [(alerts[0].id, 800, recipients)]
    assert len(spend(900)) == 3
    assert budgets.get(owner.organization_id, hard.id).amount == 1000
    budgets.remove(actor, owner.organization_id, alerts[0].id)
    assert {budget.id for budget in budgets.for_subject(project)} == {hard.id, alerts[1].id}


def test_the_number_of_alerts_is_bounded(database: Database, actor: Caller, project: Subject) -> None:
    budgets, channel = Budgets(database), {"type": "email", "recipients": ["ann@example.org"]}
    for amount in range(20):
        budgets.add_alert(actor, project, "month", amount, channel)
    with pytest.raises(InvalidRequest, match="20 alerts"):
        budgets.add_alert(actor, project, "month", 1, channel)
    budgets.put(actor, project, "month", NewBudget(1))


def test_limits_and_budgets_are_deleted_with_their_subject(
    database: Database, limits: Limits, leases: Leases, actor: Caller, owner: KeyOwner
) -> None:
    team, budgets = Team(database, owner), Budgets(database)
    project_id = team.project("Temporary")
    ann = team.person("ann@example.org", **{owner.project_id: "member"})
    keys = [team.key(ann)[0], team.key(team.admin, "temporary", project_id)[0], team.key(team.admin, "stays")[0]]
    here = owner.organization_id
    subjects = [Subject(here, "project", project_id), Subject(here, "user", ann.user_id)]
    subjects += [Subject(here, "key", key_id) for key_id in keys]
    made = {
        subject.id: (
            limits.put(actor, subject, "*", {"requests_per_day": 1}).id,
            budgets.put(actor, subject, "day", NewBudget(1)).id,
        )
        for subject in subjects
    }
    before = Revisions(database).latest().limits

    def left() -> set[str]:
        with database.read() as session:
            ids = {row.id for row in session.rows(select(allowances.c.id))}
        rows = {each.id for each in limits.all(here)} | {each.id for each in budgets.all(here)}
        assert ids == rows
        return {id_ for id_, both in made.items() if set(both) & rows}

    gone = team.members.remove(team.admin, ann.user_id)
    assert (gone["limits"], gone["budgets"]) == ([made[ann.user_id][0]], [made[ann.user_id][1]])
    assert left() == {project_id, *keys[1:]}
    gone = team.projects.delete(team.admin, project_id)
    assert (gone["limits"], gone["budgets"]) == ([made[project_id][0]], [made[project_id][1]])
    assert left() == {keys[2]}
    team.keys.revoke(owner, keys[2], actor=team.admin)
    assert left() == set()
    assert Revisions(database).latest().limits > before, "gateways ask again"
    other = team.organizations.create(team.admin, "Other")
    there = team.caller(team.admin.user_id, other.id)
    budget = budgets.put(there, Subject(other.id, "organization", other.id), "total", NewBudget(1))
    assert team.organizations.delete(there)["budgets"] == [budget.id]
