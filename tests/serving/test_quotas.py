"""Quotas on one machine: they hold back models and jobs of their project, and end none that is in use."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from llmariner.platform.capacity import Kind, QuotaLimit, QuotaRule, total
from llmariner.platform.serving import Phase

from .driver import processes
from .scripted_engines import MEMORY, model, scripted_settings
from .test_local_processes import stream_of


def test_a_quota_holds_back_models_and_jobs_of_its_project_and_ends_none_in_use(tmp_path: Path) -> None:
    slow = ("--token-interval", "10")
    of_one = [replace(model(tmp_path, name, *slow), project="proj_1") for name in ("a", "b")]
    of_two = replace(model(tmp_path, "c", *slow), project="proj_2")
    mine = frozenset({"proj_1"})
    rules: dict[str, list[QuotaRule]] = {}

    def limit(memory_bytes: int) -> None:
        rules["proj_1"] = [QuotaRule("its project", mine, {"memory": QuotaLimit(memory_bytes // 2, memory_bytes // 2)})]

    limit(MEMORY // 2)
    settings = scripted_settings(tmp_path)
    with processes(settings, *of_one, of_two, quota_rules=lambda each: rules.get(each, ())) as (driver, serving):
        other = driver.ready("c").endpoint
        driver.wake("a")
        failed = driver.wait_until(lambda status: status.phase is Phase.FAILED, "a")
        assert "the quota of its project is" in failed.message
        limit(MEMORY + MEMORY // 2)
        driver.ready("a")
        driver.ready("b")  # an idle model of the project sleeps for it
        assert (driver.status("a").phase, driver.status("c").phase) == (Phase.ASLEEP, Phase.READY)
        endpoints = (driver.status("b").endpoint, other)

        async def use() -> list[asyncio.Task[None]]:
            streams = [asyncio.create_task(stream_of(driver, each)) for each in endpoints]
            await asyncio.sleep(0.3)
            return streams

        streams = driver.run(use())
        driver.wake("a")
        waits = driver.wait_until(lambda status: bool(status.message), "a").message
        refused = driver.run(serving.reserve_memory("job-1", MEMORY, project="proj_1", millicores=500))
        allowed = driver.run(serving.reserve_memory("job-2", MEMORY, project="proj_2", millicores=500))
        limit(1)  # below what is in use
        driver.run_loop_for(1.5)
        in_use = driver.status("b").phase
        limit(3 * MEMORY)
        driver.ready("a")
        assert waits.startswith("It waits for quota: its project uses "), waits
        assert refused.startswith("It waits for quota: its project uses "), refused
        assert (allowed, in_use) == ("", Phase.READY)
        claims = serving.claims()
        (job,) = (each for each in claims if each.kind is Kind.JOBS)
        assert (job.project_id, job.amounts) == ("proj_2", {"memory": MEMORY, "cpu": 500})
        held = total(each for each in claims if each.project_id == "proj_1" and not each.waits)
        assert held["memory"] >= 2 * MEMORY
        driver.run(serving.release_memory("job-2"))
        assert all(each.kind is Kind.MODELS for each in serving.claims())
        for stream in streams:
            stream.cancel()


def test_an_idle_model_does_not_sleep_where_that_would_not_make_enough_room(tmp_path: Path) -> None:
    models = [replace(model(tmp_path, name), project=f"proj_{name}") for name in ("a", "b")]
    rules = {"proj_a": [QuotaRule("its project", frozenset({"proj_a"}), {"memory": QuotaLimit(3 * MEMORY)})]}
    settings = scripted_settings(tmp_path)
    with processes(settings, *models, quota_rules=lambda each: rules.get(each, ())) as (driver, serving):

        def reserve(owner: str, size_bytes: int, project: str) -> str:
            return driver.run(serving.reserve_memory(owner, size_bytes, project=project))

        def awake() -> list[bool]:
            return [driver.status(each).phase is Phase.READY for each in ("a", "b")]

        for each in ("a", "b"):
            driver.ready(each)
        assert reserve("job-1", MEMORY * 3 // 2, "proj_a") == ""
        assert reserve("job-2", 2 * MEMORY, "proj_a").startswith("It waits for quota"), "job-1 has what is missing"
        assert awake() == [True, True]
        assert reserve("job-2", MEMORY, "proj_a") == ""
        assert awake() == [False, True]
        driver.run(serving.release_memory("job-1"))
        assert reserve("job-3", settings.budget - 3 * MEMORY, "proj_c") == ""
        assert "that busy models or other jobs hold" in reserve("job-4", 2 * MEMORY, "proj_c")
        assert awake() == [False, True]
