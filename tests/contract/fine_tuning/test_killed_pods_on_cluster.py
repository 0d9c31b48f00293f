"""Pods are killed in a loop under three jobs on the test cluster: none is lost, and the ledger has what ran."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from llmariner.fine_tuning.job import FineTuningJob

from .training_on_cluster import WAYS, TrainingPlatform, tiny_weights, training_platform

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SEED = int(os.environ.get("LLMARINER_KILL_SEED", "1"))
EPOCHS, ROWS = 20, 12
KILLS = 3
"""Of one job. A fourth crash in a row without a saved state would end it."""
BETWEEN_SECONDS = (1.0, 4.0)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[TrainingPlatform]:
    """With room for two workers."""
    with training_platform(tmp_path, tiny_weights(tmp_path), memory_gib=1.0, pool="2200Mi") as made:
        yield made


def killed_until_all_succeeded(platform: TrainingPlatform, jobs: Sequence[str]) -> dict[str, FineTuningJob]:
    """The jobs. Only pods of which the job trains are killed: no kill is for nothing."""
    chance, killed, limit = random.Random(SEED), Counter[tuple[str, str]](), time.monotonic() + 800
    next_kill = 0.0
    while True:
        found = {each: platform.until(each, lambda _: True) for each in jobs}
        if all(job.status == "succeeded" for job in found.values()):
            print(f"\nseed {SEED}: {dict(killed)}")
            return found
        assert time.monotonic() < limit, [(job.status, job.step, job.reason) for job in found.values()]
        time.sleep(0.5)
        able = [
            (each, pod)
            for each, job in found.items()
            if job.status == "running" and sum(killed[each, way] for way in WAYS) < KILLS
            for pod in platform.pods(each)
        ]
        if able and time.monotonic() > next_kill:
            job_id, pod = chance.choice(able)
            way = chance.choice(WAYS)
            platform.kill(pod, way)
            killed[job_id, way] += 1
            next_kill = time.monotonic() + chance.uniform(*BETWEEN_SECONDS)


def test_no_job_and_no_token_is_lost(platform: TrainingPlatform) -> None:
    jobs = [platform.create(workers, epochs=EPOCHS, batch=1) for workers in (1, 1, 2)]
    ended = killed_until_all_succeeded(platform, jobs)
    losses = [platform.losses(each) for each in jobs]
    for each in losses:
        assert sorted(each) == list(range(1, EPOCHS * ROWS + 1))
        assert each == pytest.approx(losses[0], abs=1e-5)
    ran = sum(job.estimated_tokens or 0 for job in ended.values())
    ledger = sum(platform.charged(job.output_model) for job in ended.values())
    print(f"{ran} tokens ran, the ledger differs by {ledger - ran}")
    assert ledger == ran == sum(job.trained_tokens for job in ended.values())
    assert all(any("continues after" in said for said in platform.messages(each)) for each in jobs), "all were killed"
    platform.until_nothing_is_left(*jobs)
