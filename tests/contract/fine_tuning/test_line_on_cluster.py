"""What the line of a cluster does to fine-tuning jobs of real pods: they borrow, are preempted, paused, canceled."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.fine_tuning.job import FineTuningJob, Status
from llmariner.platform.capacity import QuotaLimit
from llmariner.platform.capacity.kueue import KueueCapacity
from llmariner.platform.jobs import Job
from llmariner.quotas.quota import Subject
from llmariner.quotas.quotas import Quotas
from llmariner.quotas.representation import quota_object

from .training_on_cluster import TrainingPlatform, tiny_weights, training_platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

GIB = 1 << 30
EPOCHS, STEPS = 40, 40 * 12
REST = "python3 -c 'import time; time.sleep(600)'"


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[TrainingPlatform]:
    """With room for two workers. What takes time is that pods begin."""
    with training_platform(tmp_path, tiny_weights(tmp_path), memory_gib=1.0, pool="2200Mi") as made:
        yield made


@contextlib.contextmanager
def borrowing(platform: TrainingPlatform) -> Iterator[KueueCapacity]:
    """A quota of no memory of its own for the project, so that it borrows all that is free."""
    capacity = KueueCapacity(platform.cluster, (platform.namespace,), "cpu")
    quotas, limits = Quotas(platform.context.database, lambda: capacity), {"memory": QuotaLimit(0, None)}
    quotas.put(platform.caller, subject(platform), limits, operator=True)
    try:
        yield capacity
    finally:
        quotas.remove(platform.caller, subject(platform), operator=True)


def subject(platform: TrainingPlatform) -> Subject:
    return Subject(platform.owner.organization_id, platform.owner.project_id)


def borrowed(platform: TrainingPlatform, capacity: KueueCapacity) -> int:
    """Bytes, as the API shows them."""
    claims = [each for each in capacity.use().claims if each.project_id == platform.owner.project_id]
    quota = Quotas(platform.context.database, lambda: capacity).find(subject(platform))
    shown = quota_object(subject(platform), "p", quota, claims)
    assert shown["memory"]["borrowed"] == shown["memory"]["used"]
    return int(shown["memory"]["borrowed"])


def preempt(platform: TrainingPlatform, job_id: str) -> FineTuningJob:
    """Have a job of a higher priority take back what the project borrows; the job that waits for it now."""
    jobs = platform.context.jobs
    before, high = jobs._settings, f"{platform.namespace}-high"  # type: ignore[attr-defined]
    jobs._settings = replace(before, priority=high)  # type: ignore[attr-defined]
    jobs.submit(Job("bj-high", "proj_2", REST, image="python"))
    jobs._settings = before  # type: ignore[attr-defined]
    return platform.until(job_id, lambda job: job.status == "queued" and "preempted" in job.reason and job.place == 1)


def test_a_job_borrows_is_preempted_and_paused_and_has_the_losses_of_one_that_was_not(
    platform: TrainingPlatform,
) -> None:
    with borrowing(platform) as capacity:
        check_losses(platform, capacity)


def check_losses(platform: TrainingPlatform, capacity: KueueCapacity) -> None:
    jobs = platform.context.fine_tuning.jobs
    plain = platform.create(epochs=EPOCHS, batch=1)
    platform.until(plain, lambda job: job.status == "running")
    job_id = platform.create(workers=2, epochs=EPOCHS, batch=1)
    waiting = platform.until(job_id, lambda job: job.place == 1 and "quota" in job.reason)
    print(f"\n{waiting.reason}")
    assert waiting.status == "queued"
    assert borrowed(platform, capacity) == GIB
    undisturbed = platform.until(plain, lambda job: job.status == "succeeded")

    platform.until(job_id, lambda job: len(platform.losses(job_id)) > STEPS // EPOCHS)
    assert borrowed(platform, capacity) == 2 * GIB
    print(preempt(platform, job_id).reason)
    platform.context.jobs.remove("bj-high")
    platform.until(job_id, lambda job: job.status == "running")
    said = platform.messages(job_id)
    assert any("was interrupted" in each and "It was preempted" in each for each in said), said
    assert any("continues after step" in each for each in said), said

    jobs.pause(platform.caller, job_id)
    paused = platform.until(job_id, lambda job: job.status == "paused")
    assert paused.step < STEPS, "it was paused before its end"
    platform.until_nothing_is_left(job_id, plain)
    jobs.resume(platform.caller, job_id)
    done = platform.until(job_id, lambda job: job.status == "succeeded")
    assert platform.losses(job_id) == pytest.approx(platform.losses(plain), abs=1e-5)
    assert sorted(platform.losses(job_id)) == list(range(1, STEPS + 1))
    for each in (done, undisturbed):
        assert platform.charged(each.output_model) == each.trained_tokens == each.estimated_tokens
    platform.until_nothing_is_left(job_id, plain)
    print("\n".join(platform.messages(job_id)))


def test_a_canceled_job_keeps_its_checkpoints_and_leaves_nothing_in_the_cluster(platform: TrainingPlatform) -> None:
    jobs, job_id = platform.context.fine_tuning.jobs, platform.create(workers=2, epochs=EPOCHS, batch=1)
    platform.until(job_id, lambda job: len(platform.losses(job_id)) > STEPS // EPOCHS)
    assert len(platform.pods(job_id)) == 2
    canceled = jobs.cancel(platform.caller, job_id)
    assert (canceled.status, canceled.error_code) == (Status.CANCELLED, None)
    platform.until_nothing_is_left(job_id)
    ended = jobs.get(platform.owner.project_id, job_id)
    assert 0 < ended.trained_tokens < (ended.estimated_tokens or 0)
    assert platform.charged(ended.output_model) == ended.trained_tokens
