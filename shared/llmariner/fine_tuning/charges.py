"""Trained tokens in the ledger, and what budgets say of them.

A token is charged once: a job's count is the highest that any of its processes reported, and a process that continues from
a state counts on from the count in it. So what is trained again after an interruption is not charged again. The ledger has
an entry per job and day (UTC), under the name of the job's model; its price is that of the day's first tokens. Where the
operator changes what is charged, the rest of the day has another entry: its tokens cost something else, or nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, func, select, update

from llmariner.errors import InvalidRequest
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.gateway.control_plane.port import Key
from llmariner.limits.direct_charges import DirectCharges, InsufficientBudget
from llmariner.models.tables import models
from llmariner.platform.database import ReadSession, WriteSession
from llmariner.usage.aggregation import TOKENS
from llmariner.usage.charge_policies import ChargePolicyList
from llmariner.usage.ledger import record_event
from llmariner.usage.prices import TRAINING_ROUTE, PriceList, dollars
from llmariner.usage.tables import ledger_events, ledger_requests

__all__ = ["charge_tokens", "check_budgets", "cost_of", "tokens_of_job"]

_DAY = 86400


def tokens_of_job(job: Row[Any] | Any) -> int | None:
    """All tokens of all epochs, of a row of `fine_tuning_jobs`; None before the files are checked."""
    if job.tokens is None or job.hyperparameters is None:
        return None
    return int(job.tokens) * int(json.loads(job.hyperparameters)["n_epochs"])


def cost_of(session: ReadSession, job: Row[Any], tokens: int) -> int:
    """Nano-dollars for so many trained tokens now: at the price of the job's model, else of its base model, else of `*`."""
    base_project = _base_project(session, job)
    owners = {job.project_id, *([base_project] if base_project else [])}
    prices = PriceList.for_models(session, {job.output_model, job.model}, owners)
    project = {"project_id": job.project_id, "base_project_id": base_project}
    price = prices.at(job.output_model, session.now(), job.model, **project, trains=True)
    return 0 if price is None else price.training_cost(tokens).total


def check_budgets(session: WriteSession, job: Row[Any], tokens: int) -> str | None:
    """Why the hard budgets of who made the job do not cover so many trained tokens; None: they do, or nothing costs."""
    cost = cost_of(session, job, tokens)
    if not cost:
        return None
    try:
        DirectCharges(session, _payer(job)).check(cost)
    except InsufficientBudget as short:
        return (
            f"The training would cost {dollars(cost):.6g} US dollars, and the {short.rule.period} budget "
            f"'{short.rule.id}' of the {short.rule.subject} has {dollars(max(0, short.left)):.6g} left: an administrator "
            "can raise it."
        )
    return None


def charge_tokens(session: WriteSession, job: Row[Any], trained_tokens: int) -> str | None:
    """Charge what a job, which is locked, has trained beyond what was charged. Idempotent by the count.

    Returns the id of a hard budget that is spent now, None where none is. Raises InvalidRequest for more tokens than the
    job has.
    """
    new = trained_tokens - job.trained_tokens
    if new <= 0:
        return None
    if trained_tokens > (tokens_of_job(job) or 0):
        raise InvalidRequest(
            f"The job has {tokens_of_job(job)} tokens, not {trained_tokens}.", param="records.trained_tokens"
        )
    charges = DirectCharges(session, _payer(job))
    money = _record(session, job, new)
    values = {"trained_tokens": trained_tokens, "cost": job.cost + money}
    session.run(update(fine_tuning_jobs).where(fine_tuning_jobs.c.id == job.id).values(**values))
    charges.add(money)
    try:
        if money:
            charges.check(1)
    except InsufficientBudget as spent:
        return spent.rule.id
    return None


def _record(session: WriteSession, job: Row[Any], new: int) -> int:
    """Add so many tokens to the entry of the day; returns what they cost in nano-dollars."""
    now = session.now()
    entry_id = _entry_id(session, job, now)
    c = ledger_requests.c
    query = select(c.trained_tokens, c.cost, c.admitted_at).where(c.request_id == entry_id)
    before = session.first(query)
    last = session.value(select(func.max(ledger_events.c.sequence)).where(ledger_events.c.request_id == entry_id))
    event: Mapping[str, Any] = {
        **dict.fromkeys(TOKENS, 0),
        "request_id": entry_id,
        "sequence": 0 if last is None else last + 1,
        "kind": "closed",
        "at": now,
        "admitted_at": now if before is None else before.admitted_at,
        "trained_tokens": new + (0 if before is None else before.trained_tokens),
        "organization_id": job.organization_id,
        "project_id": job.project_id,
        "user_id": job.user_id,
        "key_id": _payer(job).id,
        "model": job.output_model,
        "adapter": job.output_model,
        "base_model": job.model,
        "model_project_id": job.project_id,
        "base_project_id": _base_project(session, job),
        "route": TRAINING_ROUTE,
        "outcome": "succeeded",
        "status": 200,
        "waited_seconds": None,
        "first_token_seconds": None,
    }
    record_event(session, event)
    after = session.first(query)
    assert after is not None
    return int(after.cost) - (0 if before is None else int(before.cost))


def _entry_id(session: ReadSession, job: Row[Any], now: float) -> str:
    """The entry of that time: of its day, or of what is left of it after a change of what is charged."""
    day, until = int(now) // _DAY * _DAY, round(now * 1000)
    changes = ChargePolicyList.of_span(session, day, now).changes_ms()
    begun = max((at for at in changes if day * 1000 < at <= until), default=None)
    entry_id = f"{job.id}-{time.strftime('%Y%m%d', time.gmtime(day))}"
    return entry_id if begun is None else f"{entry_id}-{begun - day * 1000}"


def _base_project(session: ReadSession, job: Row[Any]) -> str | None:
    """The project that owns the base model; None: it is shared, or gone."""
    found: str | None = session.value(select(models.c.project_id).where(models.c.id == job.model_id))
    return found


def _payer(job: Row[Any]) -> Key:
    """Whose budgets count the job: those of its organization, project, user and key."""
    return Key(
        id=job.key_id or job.user_id,
        project_id=job.project_id,
        organization_id=job.organization_id,
        user_id=job.user_id,
        scopes=frozenset(),
        expires_at=None,
        unlimited=False,
    )
