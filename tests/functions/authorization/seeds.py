"""Objects that exist in every tenant beforehand, to be found in lists."""

from __future__ import annotations

import time
from typing import Any

from llmariner.audit.log import append_entry as add_audit
from llmariner.limits.budgets import NewBudget
from llmariner.limits.rules import Subject
from llmariner.showback.allocations import Allocation, Allocations
from llmariner.usage.tables import prices

from .batch_job_objects import batch_job
from .cluster_objects import cluster
from .files import a_file
from .fine_tuning_objects import fine_tuning_credential, fine_tuning_job
from .model_alias_objects import an_alias
from .model_credential_objects import model_credential
from .notebook_objects import notebook
from .objects import an_alert, an_event, model
from .vector_store_objects import vector_store
from .world import Tenant, World

__all__ = ["seed"]


def seed(world: World) -> None:
    """Create one object of every listed type in each tenant, and a price for all tenants."""
    rates = dict.fromkeys(("prompt", "cached_prompt", "completion", "request"), 1000)
    world.add(prices, id="price_1", model="*", created_at=1, valid_from=0.0, valid_to=None, **rates)
    for tenant in world.distinct:
        world.key(tenant, tenant.user_id)
        world.key(tenant, tenant.user_id, admin=True)
        world.invite(tenant)
        world.role(tenant, of_project=False)
        world.group(tenant)
        an_alert(organization=True)(world, tenant)
        model(world, tenant)
        an_alias()(world, tenant)
        a_file(world, tenant)
        vector_store(world, tenant)
        batch_job(world, tenant)
        notebook(world, tenant)
        cluster(world, tenant)
        fine_tuning_job(world, tenant)
        fine_tuning_credential(world, tenant)
        model_credential(world, tenant)
        an_event(world, tenant)
        with world.database.write() as session:
            add_audit(
                session,
                None,
                "project.created",
                {"id": tenant.project_id},
                organization_id=tenant.organization_id,
                project_id=tenant.project_id,
            )
        subject = Subject(tenant.organization_id, "project", tenant.project_id)
        world.context.limits.put(None, subject, "walk/seeded", {"requests_per_day": 9})
        world.context.budgets.put(None, subject, "month", NewBudget(10**12, alert_ratio=None, hard=True))
        world.context.ledger.record([_used(tenant, route) for route in ("chat_completions", "embeddings")])
        amounts = {"cpu": 1000, "memory": 2**30}
        start = round(time.time() * 1000) - 60_000
        held = Allocation(f"walk/{tenant.tag}", "batch_job", f"bj-{tenant.tag}", tenant.project_id, amounts, start)
        Allocations(world.database).begin(held)
    world.now = 0


def _used(tenant: Tenant, route: str) -> dict[str, Any]:
    """The usage event that closes a request of the tenant's user, as the meter writes it."""
    whose = {"organization_id": tenant.organization_id, "project_id": tenant.project_id, "user_id": tenant.user_id}
    what = {"key_id": f"key_{tenant.tag}", "model": f"walk/{tenant.tag}", "route": route, "adapter": None}
    counts = {"prompt_tokens": 9, "completion_tokens": 3, "cached_tokens": 0, "reasoning_tokens": 0}
    times = ("waited_seconds", "queued_seconds", "wake_seconds", "first_token_seconds", "total_seconds")
    known = {"request_id": f"{route}-{tenant.tag}", "sequence": 2**31 - 1, "kind": "closed", "outcome": "succeeded"}
    at = time.time() - 60
    return {**known, **whose, **what, **counts, **dict.fromkeys(times), "status": 200, "admitted_at": at, "at": at}
