"""Watches of the pods of one machine, with the real kubectl, and engines as pods."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llmariner.errors import RateLimited
from llmariner.http.pod_watches import PodChange, PodWatches
from llmariner.models.tables import models as models_table
from llmariner.platform.serving import Phase as EnginePhase
from llmariner.sessions.machine.engines import MachineEngine, pod_name
from llmariner.sessions.machine.pods import BATCH_JOB, MachinePod
from llmariner.tenancy.keys.store import NewKey

from .installation import Replica, ask, until
from .machine import BASE, Machine, follow, has_output, scenario
from .tls_proxy import CERTIFICATE, terminated_tls


def test_kubectl_watches_pods_as_they_change_and_go(machine: Machine, tmp_path: Path) -> None:
    known, caller, batch_jobs = machine.run_job(), machine.installation.caller, machine.context.batch_jobs

    async def steps(replica: Replica) -> None:
        async with terminated_tls(replica.port, tmp_path) as url:
            server = ("--server", f"{url}{BASE}", "--certificate-authority", str(tmp_path / CERTIFICATE))
            words = ("--token", machine.installation.key or "", "-n", machine.installation.owner.project_id)
            watching = await asyncio.create_subprocess_exec(
                *(
                    "kubectl",
                    *server,
                    *words,
                    "get",
                    "pods",
                    "-w",
                    "--no-headers",
                    "--output-watch-events",
                ),
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
                stdout=asyncio.subprocess.PIPE,
            )
            assert watching.stdout is not None
            seen: list[list[str]] = []

            async def read_until(name: str, status: str, *events: str) -> None:
                assert watching.stdout is not None
                async with asyncio.timeout(100):
                    while not any(row[1:] == [name, status] and row[0] in events for row in seen):
                        words = (await watching.stdout.readline()).decode().split()
                        assert words, seen
                        seen.append([*words[:2], words[3]])

            try:
                await until(has_output(machine, known))
                await read_until(known, "Running", "ADDED", "MODIFIED")
                job_id = await asyncio.to_thread(machine.run_job)
                await read_until(job_id, "Running", "ADDED", "MODIFIED")  # nobody may have looked before it ran
                await asyncio.to_thread(batch_jobs.cancel, caller, job_id)
                await asyncio.to_thread(machine.context.batch_job_reconciler.reconcile, job_id)
                await read_until(job_id, "Canceled", "MODIFIED")
                await asyncio.to_thread(batch_jobs.delete, caller, job_id)
                await asyncio.to_thread(machine.context.batch_job_reconciler.reconcile, job_id)
                await read_until(job_id, "Canceled", "DELETED")
            finally:
                watching.terminate()
                await watching.wait()

    scenario(machine, steps)


def test_a_watch_tells_of_what_is_selected_and_ends_in_time(machine: Machine) -> None:
    job_id, key = machine.run_job(), machine.installation.key or ""
    _, narrow = machine.context.keys.create(
        machine.installation.owner, NewKey("no jobs", scopes=frozenset({"api.fine_tuning.jobs.read"}))
    )
    watched = f"{machine.pods}?watch=1&timeoutSeconds=1"

    async def steps(replica: Replica) -> None:
        one = f"{watched}&fieldSelector=metadata.name={job_id}"
        status, body = await ask(replica, key, one)
        sent = [json.loads(line) for line in body.splitlines()]
        assert (status, {each["object"]["metadata"]["name"] for each in sent}) == (200, {job_id})
        assert sent[0]["type"] == "ADDED"
        version = 1000 * (int(sent[-1]["object"]["metadata"]["resourceVersion"]) // 1000 + 1000)
        assert await ask(replica, key, f"{one}&resourceVersion={version}") == (200, b""), "nothing has changed since"
        assert await ask(replica, narrow, watched) == (200, b""), "nothing of what its key may not read"
        reader, writer = await follow(replica, key, f"{machine.pods}?watch=1&timeoutSeconds=0")
        assert b"ADDED" in await asyncio.wait_for(reader.readuntil(b"}\n"), 30), "zero is no limit"
        writer.close()
        for wrong in ("timeoutSeconds=x", "resourceVersion=-1", "resourceVersion=" + "9" * 5000, "labelSelector=%3E"):
            status, body = await ask(replica, key, f"{machine.pods}?watch=1&{wrong}")
            assert (status, json.loads(body)["kind"]) == (400, "Status"), wrong

    scenario(machine, steps)


NUMBERS = {"created_at", "loading_progress", "size_bytes", "deleted", "revision"}
EMPTY_MODEL = {
    each.name: 0 if each.name in NUMBERS else ""
    for each in models_table.c
    if not each.nullable and each.server_default is None
}


def test_watches_that_come_at_once_are_limited_too() -> None:
    watches = PodWatches(lambda _: {})
    for _ in range(25):
        watches.check_room("proj_1")  # its response has not begun
    with pytest.raises(RateLimited):
        watches.check_room("proj_1")
    watches.check_room("proj_2")


def test_a_short_watch_reports_what_there_is_however_long_the_first_look_takes() -> None:
    pod = MachinePod("bj-1", BATCH_JOB, "bj-1", "python", "Running", "", "", 0, 5, 6, None)

    def look(_: str) -> dict[str, MachinePod]:
        time.sleep(0.2)
        return {pod.name: pod}

    async def scenario() -> list[PodChange]:
        return [each async for each in PodWatches(look).watch("proj_1", None, 0.01, lambda: None)]

    assert asyncio.run(scenario()) == [PodChange("ADDED", pod)]


def test_nobody_can_name_a_model_so_that_its_pod_has_the_name_of_anothers() -> None:
    # Found among 70,000 names: they begin alike, and so do their hashes.
    names = {pod_name("a" * 40 + end) for end in ("30139@proj_victim", "34346@proj_attacker")}
    assert len(names) == 2
    assert max(map(len, names)) <= 63
    assert {len(name.rpartition("-")[2]) for name in names} == {16}


def test_engines_of_the_projects_own_models_are_pods_with_logs(machine: Machine, tmp_path: Path) -> None:
    key, installation, now = machine.installation.key or "", machine.installation, time.time()
    models = {"own@x": installation.owner.project_id, "Big/one": "proj_2", "shared": None}
    logs = {id_: tmp_path / f"{number}.log" for number, id_ in enumerate(models)}
    for id_, log in logs.items():
        log.write_bytes(
            f'INFO reads {tmp_path}/models/own/config.json of {id_}\n  File "/opt/v/loader.py"\nhalf'.encode()
        )
    with machine.context.database.write() as session:
        for id_, project in models.items():
            session.add(models_table, **{**EMPTY_MODEL, "id": id_, "project_id": project})
    running = [MachineEngine(id_, EnginePhase.READY, "", log, now, now) for id_, log in logs.items()]
    machine.context.clusters.engines = lambda: running
    name = pod_name("own@x")

    async def steps(replica: Replica) -> None:
        selected = f"{machine.pods}?labelSelector=llmariner.ai/kind=engine"
        listed = json.loads((await ask(replica, key, selected))[1])["items"]
        assert [(each["metadata"]["name"], each["status"]["phase"]) for each in listed] == [(name, "Running")]
        assert listed[0]["metadata"]["labels"]["llmariner.ai/name"] == "own"
        shown = 'INFO reads \u2026/config.json of own@x\n  File "\u2026/loader.py"\n'
        assert await ask(replica, key, f"{machine.pods}/{name}/log") == (200, shown.encode()), "whole lines, no folders"
        assert (await ask(replica, key, f"{machine.pods}/{name}/log?tailLines=1"))[1] == shown.splitlines(True)[
            1
        ].encode()
        for id_ in ("Big/one", "shared"):
            assert (await ask(replica, key, f"{machine.pods}/{pod_name(id_)}/log"))[0] == 404, id_
        reader, writer = await follow(replica, key, f"{machine.pods}/{name}/log?follow=true&tailLines=0")
        logs["own@x"].write_bytes(b"begun again\n")  # it was rotated
        assert b"begun again" in await asyncio.wait_for(reader.readuntil(b"again\n"), 30)
        running[0] = replace(running[0], phase=EnginePhase.FAILED, message="no memory", ended_at=now)
        assert b"0\r\n\r\n" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 30), "it ends with the engine"
        writer.close()
        pod = json.loads((await ask(replica, key, f"{machine.pods}/{name}"))[1])
        assert (pod["status"]["phase"], pod["status"]["message"]) == ("Failed", "no memory")

    try:
        scenario(machine, steps)
    finally:
        machine.context.clusters.engines = None
