"""Periodic maintenance.

Deletes files and uploads that expired, files of projects that are gone or were archived long ago, and contents that
no file has; publishes pending events; closes ledger entries of lost gateway instances; prunes old ledger entries,
whose sums remain, and old deliveries; reconciles batch and fine-tuning jobs and notebooks with what runs them; has
metrics of fine-tuning jobs sent again that were not; has copies of models continue that stalled, and removes unused ones;
has Kueue's Workloads compared with the recorded allocations, and quotas applied that are not in effect; charges budgets
for compute; reads how far GPUs are used; deletes clusters that are drained, and old telemetry of clusters; reconciles
serving, which puts idle models to sleep.
"""

import asyncio
import logging
import secrets

from llmariner.context import Context
from llmariner.errors import PlatformError
from llmariner.http.entrypoint import event_function
from llmariner.models.weight_loads import continue_stalled
from llmariner.platform.database.work_leases import WorkLease
from llmariner.platform.events.cloudevents import Event
from llmariner.settings import ObjectSettings, UsageSettings

_log = logging.getLogger(__name__)
# A gateway instance sends a heartbeat for each request in flight every 15 s.
_LOST_AFTER_SECONDS = 60.0
# Longer than a sweep takes, and the most that a killed sweep delays the next.
_LEASE_SECONDS = 120.0
# How long each step that deletes files may take.
_STEP_SECONDS = 15.0
# Contents without a row are rare, and finding them lists the store.
_GARBAGE_SECONDS = 6 * 3600.0
# Long enough to recover from a consumer's outage over a weekend, and to investigate it.
_RETENTION_SECONDS = 7 * 86400.0


async def consume(context: Context, _event: Event) -> None:
    """Idempotent. A lease in the database limits sweeps to one at a time; further calls return at once."""
    lease = WorkLease(context.database, "sweep", f"sweep_{secrets.token_hex(8)}")
    if await asyncio.to_thread(lease.acquire, _LEASE_SECONDS) is None:
        return
    try:
        failed = await asyncio.to_thread(_run_steps, context)
        await context.serving.reconcile()
    finally:
        await asyncio.to_thread(lease.pause, 0.0)
    if failed:
        raise failed[0]


def _run_steps(context: Context) -> list[Exception]:
    """Run every step even if others fail; return their errors, one of which the caller raises for a retry."""
    failed: list[Exception] = []
    for step in _STEPS:
        try:
            step(context)
        except PlatformError as error:
            _log.warning("a step of the sweep failed: %s: %s", step.__name__.removeprefix("_"), error.message)
            failed.append(error)
        except Exception as error:  # the other steps must still run
            _log.exception("a step of the sweep failed: %s", step.__name__.removeprefix("_"))
            failed.append(error)
    return failed


def _publish_events(context: Context) -> None:
    if context.publisher is not None:
        context.publisher.publish()


def _close_lost_requests(context: Context) -> None:
    context.ledger.interrupt(unseen_for=_LOST_AFTER_SECONDS)


def _prune_requests(context: Context) -> None:
    context.ledger.purge(older_than=UsageSettings.load(context.env).days * 86400)


def _prune_events(context: Context) -> None:
    context.deliveries.prune(older_than=_RETENTION_SECONDS)


def _delete_files(context: Context) -> None:
    if ObjectSettings.load(context.env).is_configured:
        context.files.expire(seconds=_STEP_SECONDS)
        context.files.delete_orphans(seconds=_STEP_SECONDS)
        context.uploads.expire(seconds=_STEP_SECONDS)
        context.uploads.prune(seconds=_STEP_SECONDS)


def _collect_garbage(context: Context) -> None:
    if not ObjectSettings.load(context.env).is_configured:
        return
    from llmariner.files.garbage import collect_garbage, collect_parts

    lease = WorkLease(context.database, "file_garbage", f"sweep_{secrets.token_hex(8)}")
    if lease.acquire(_LEASE_SECONDS) is not None:
        collect_garbage(context.files, context.objects, seconds=_STEP_SECONDS)
        collect_parts(context.uploads, context.objects, seconds=_STEP_SECONDS)
        context.weights.collect_garbage(seconds=_STEP_SECONDS)
        lease.pause(_GARBAGE_SECONDS)


def _reconcile_jobs(context: Context) -> None:
    context.batch_job_reconciler.reconcile_all(seconds=_STEP_SECONDS)


def _reconcile_fine_tuning(context: Context) -> None:
    context.fine_tuning.reconciler.reconcile_all(seconds=_STEP_SECONDS)


def _reconcile_notebooks(context: Context) -> None:
    context.notebooks.reconciler.reconcile_all(seconds=_STEP_SECONDS)


def _maintain_clusters(context: Context) -> None:
    from llmariner.clusters.machine import machine_heartbeat

    clusters = context.clusters
    clusters.store.finish_deletions()
    clusters.snapshots.prune(older_than=clusters.settings.telemetry_days * 86400)
    if clusters.machine is not None:
        clusters.heartbeats.record_local(machine_heartbeat(clusters.machine()))


def _track_fine_tuning(context: Context) -> None:
    context.fine_tuning.tracked_runs.wake()
    context.fine_tuning.credentials.delete_orphans()


def _check_allocations(context: Context) -> None:
    from llmariner.showback.installation import check_worker_clusters, request_check

    request_check(context.env, context.database)
    check_worker_clusters(context.database, context.clusters, seconds=_STEP_SECONDS)


def _read_utilization(context: Context) -> None:
    from llmariner.showback.installation import read_utilization
    from llmariner.showback.utilization import prune_utilization

    read_utilization(context.env, context.database, seconds=_STEP_SECONDS)
    prune_utilization(context.database, older_than=context.clusters.settings.telemetry_days * 86400)


def _settle_quotas(context: Context) -> None:
    from llmariner.quotas.installation import request_settlements

    request_settlements(context.env, context.database)


def _charge_compute(context: Context) -> None:
    from llmariner.showback.charges import charge_budgets

    charge_budgets(context.database, seconds=_STEP_SECONDS)


def _maintain_model_copies(context: Context) -> None:
    continue_stalled(context.registry, context.weights)
    context.weights.remove_unused(seconds=_STEP_SECONDS)
    context.source_credentials.maintain()


_STEPS = (
    _delete_files,
    _maintain_model_copies,
    _reconcile_jobs,
    _reconcile_fine_tuning,
    _reconcile_notebooks,
    _track_fine_tuning,
    _maintain_clusters,
    _check_allocations,
    _settle_quotas,
    _publish_events,
    _close_lost_requests,
    _charge_compute,
    _read_utilization,
    _prune_requests,
    _prune_events,
    _collect_garbage,
)

# Events of the cluster's PingSource are not in the outbox; their data is ignored.
handle = event_function(consume, from_outbox=False)
