"""One machine without Kubernetes: a project's jobs as pods, with the real kubectl, and processes that really run."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from llmariner.errors import InvalidRequest
from llmariner.fine_tuning.tables import fine_tuning_jobs
from llmariner.notebooks.tables import notebooks
from llmariner.platform.jobs import Job, LogPart
from llmariner.sessions.machine.log_options import LogOptions, start_of_tail
from llmariner.sessions.machine.selectors import matches
from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.roles.scopes import OWNER_SCOPES

from .installation import Replica, ask, until
from .machine import BASE, Machine, follow, has_output, scenario
from .test_kubectl import PROGRAMS, run
from .tls_proxy import CERTIFICATE, terminated_tls


def test_kubectl_lists_jobs_and_follows_the_log_of_one_until_it_ends(machine: Machine, tmp_path: Path) -> None:
    job_id, project_id = machine.run_job(), machine.installation.owner.project_id

    async def steps(replica: Replica) -> None:
        async with terminated_tls(replica.port, tmp_path) as url:
            env = {
                "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "LLMARINER_HOME": str(tmp_path),
                "LLMARINER_BASE_URL": f"{url}/v1",
                "LLMARINER_API_KEY": machine.installation.key or "",
            }
            written = ("clusters", "kubeconfig", "cluster-local", "-n", project_id)
            authority = ("--certificate-authority", str(tmp_path / CERTIFICATE))
            code, kubeconfig, error = await run("llma", *written, *authority, env=env)
            assert code == 0, error
            (tmp_path / "kubeconfig").write_text(kubeconfig)
            kubectl = ("kubectl", f"--kubeconfig={tmp_path / 'kubeconfig'}")
            await until(has_output(machine, job_id))
            code, out, error = await run(*kubectl, "get", "pods", env=env)
            assert code == 0, error
            assert out.split()[:5] == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"], out
            assert out.split()[5:9] == [job_id, "1/1", "Running", "0"], out
            pipe = asyncio.subprocess.PIPE
            following = await asyncio.create_subprocess_exec(*kubectl, "logs", "-f", job_id, env=env, stdout=pipe)
            assert following.stdout is not None
            async with asyncio.timeout(60):
                assert await following.stdout.readexactly(13) == b"first\nsecond\n"
                await asyncio.to_thread(machine.context.batch_jobs.cancel, machine.installation.caller, job_id)
                await asyncio.to_thread(machine.context.batch_job_reconciler.reconcile, job_id)
                assert (await following.communicate())[0] == b""
            assert following.returncode == 0, "it ends as the job does"
            for words, said in (
                (("version",), "+llmariner-"),
                (("describe", "pod", job_id), "Reason:       canceled"),
                (("get", "pod", job_id, "-o", "yaml"), "phase: Failed"),
                (("get", "pod", job_id, "-o", "wide"), f"batch-job/{job_id}"),
                (("api-resources",), "pods"),
            ):
                code, out, error = await run(*kubectl, *words, env=env)
                assert (code, said in out, error) == (0, True, ""), (words, out, error)

    scenario(machine, steps)


def test_a_revoked_key_ends_a_log_that_is_followed(machine: Machine) -> None:
    job_id, keys = machine.run_job(), machine.context.keys
    key, secret = keys.create(machine.installation.owner, NewKey("lost", scopes=OWNER_SCOPES))

    async def steps(replica: Replica) -> None:
        reader, writer = await follow(replica, secret, f"{machine.pods}/{job_id}/log?follow=true")
        async with asyncio.timeout(30):
            await reader.readuntil(b"second\n")
            await asyncio.to_thread(keys.revoke, machine.installation.owner, key.id)
            rest = await reader.read()
        assert rest.strip() == b"", "without the end of the response, so that nobody takes it for the job's"
        writer.close()

    scenario(machine, steps)


def test_the_process_of_a_fine_tuning_job_is_a_pod_while_it_is_kept(machine: Machine) -> None:
    key, job_id = machine.installation.key or "", "ftjob-1"
    with machine.context.database.write() as session:
        session.add(fine_tuning_jobs, **tuning_row(machine, job_id))
    pod = f"{machine.pods}/{job_id}-2"

    async def steps(replica: Replica) -> None:
        status, body = await ask(replica, key, pod)
        assert (status, json.loads(body)["status"]["phase"]) == (200, "Running"), body
        reader, writer = await follow(replica, key, f"{pod}/log?follow=true")  # its process has not begun
        machine.jobs.submit(Job(f"{job_id}-2", machine.installation.owner.project_id, "echo trains"))
        async with asyncio.timeout(30):
            assert b"trains\n" in await reader.readuntil(b"0\r\n\r\n"), "until the process ends"
        writer.close()
        assert (await ask(replica, key, f"{machine.pods}/{job_id}-1"))[0] == 404, "an earlier attempt"
        listed = json.loads(
            (await ask(replica, key, f"{machine.pods}?labelSelector=llmariner.ai/kind=fine-tuning-job"))[1]
        )
        assert [each["metadata"]["name"] for each in listed["items"]] == [f"{job_id}-2"]
        with machine.context.database.write() as session:
            session.run(update(fine_tuning_jobs).values(released=True))
        assert (await ask(replica, key, f"{pod}/log"))[0] == 404, "its output is deleted"

    scenario(machine, steps)


def test_notebooks_are_pods_without_logs(machine: Machine) -> None:
    key, installation = machine.installation.key or "", machine.installation
    made = {name: new_notebook_row(machine, name) for name in ("mine", "other")}
    with machine.context.database.write() as session:
        session.add(notebooks, **{**made["mine"], "status": "running", "started_at": 5.0})
        session.add(notebooks, **{**made["other"], "project_id": "proj_2"})
    pod = f"{machine.pods}/{made['mine']['id']}"
    selected = f"{machine.pods}?labelSelector=llmariner.ai/kind=notebook"
    _, narrow = machine.context.keys.create(
        installation.owner, NewKey("jobs", scopes=frozenset({"api.fine_tuning.jobs.read", "api.batch.jobs.read"}))
    )

    async def steps(replica: Replica) -> None:
        status, body = await ask(replica, key, pod)
        found = json.loads(body)
        assert (status, found["status"]["phase"], found["metadata"]["labels"]["llmariner.ai/name"]) == (
            200,
            "Running",
            "mine",
        )
        listed = json.loads((await ask(replica, key, selected))[1])
        assert [each["metadata"]["name"] for each in listed["items"]] == [made["mine"]["id"]]
        assert (await ask(replica, key, f"{machine.pods}/{made['other']['id']}"))[0] == 404, "another project's"
        status, body = await ask(replica, key, f"{pod}/log")
        assert (status, "llma workspace notebooks" in json.loads(body)["message"]) == (405, True)
        assert (await ask(replica, narrow, pod))[0] == 404
        assert json.loads((await ask(replica, narrow, selected))[1])["items"] == []

    scenario(machine, steps)
    with machine.context.database.write() as session:
        session.run(delete(notebooks))


def new_notebook_row(machine: Machine, name: str) -> dict[str, Any]:
    """A notebook that waits."""
    owner = machine.installation.owner
    known = {
        "id": f"nb-{name}",
        "name": name,
        "project_id": owner.project_id,
        "organization_id": owner.organization_id,
        "user_id": owner.user_id,
        "status": "stopped",
        "envs": "{}",
        "ports": "[]",
        "created_at": 1,
    }
    needed = [each for each in notebooks.c if not each.nullable and each.server_default is None]
    return {**{each.name: each.type.python_type() for each in needed if each.name not in known}, **known}


def tuning_row(machine: Machine, job_id: str) -> dict[str, object]:
    """A job in its second attempt after the first one."""
    owner = machine.installation.owner
    known = {
        "id": job_id,
        "project_id": owner.project_id,
        "organization_id": owner.organization_id,
        "user_id": owner.user_id,
        "attempt": 2,
        "status": "running",
        "released": False,
        "created_at": 1,
    }
    needed = [each for each in fine_tuning_jobs.c if not each.nullable and each.server_default is None]
    empty = {each.name: each.type.python_type() for each in needed if each.name not in known}
    return {**empty, **known}


def test_what_is_not_there_says_what_to_use(machine: Machine) -> None:
    job_id = machine.run_job()
    pod = f"{machine.pods}/{job_id}"
    namespace = machine.pods.removesuffix("/pods")
    websocket = "connection: upgrade\r\nupgrade: SPDY/3.1\r\n"
    refused = [
        (f"{pod}/exec?command=ls", websocket, 405, "llma batch jobs exec"),
        (f"{pod}/portforward", websocket, 405, "on the machine itself"),
        (f"{namespace}/services", "", 404, "are its pods"),
        (f"{namespace}/secrets", "", 403, "You may not"),
        (f"{namespace}/pods/bj-0/log", "", 404, 'pods "bj-0" not found'),
        (f"{namespace}/pods/ftjob-0-0/log?follow=true", "", 404, 'pods "ftjob-0-0" not found'),
        (f"{BASE}/api/v1/namespaces/proj_2/pods", "", 404, "no namespace 'proj_2'"),
        (f"{BASE}/api/v1/pods", "", 403, "name one"),
        (f"{BASE}/apis/apps/v1", "", 404, "pods of the group v1"),
        (f"{pod}/log?tailLines=-1", "", 400, "tailLines"),
        (f"{pod}/log?limitBytes=0", "", 400, "limitBytes"),
        (f"{pod}/log?tailLines=" + "9" * 5000, "", 400, "tailLines"),
        (f"{pod}/log?container=side", "", 400, "one container"),
        (f"{pod}/log?timestamps=true", "", 400, "no times"),
        (f"{pod}/log?previous=true", "", 400, "same log"),
        (f"{machine.pods}?limit=x", "", 400, "limit"),
        (f"{machine.pods}?continue=batch-job/x", "", 400, "continue"),
        (f"{machine.pods}?labelSelector=a%20in%20(b)", "", 400, "labelSelector"),
    ]

    async def steps(replica: Replica) -> None:
        for path, fields, status, said in refused:
            found = await ask(replica, machine.installation.key or "", path, fields=fields)
            document = json.loads(found[1])
            assert (found[0], document["kind"], document["code"]) == (status, "Status", status), (path, found)
            assert said in document["message"] == document["error"]["message"], (path, found)

    scenario(machine, steps)


def test_only_the_own_projects_jobs_are_there_and_only_for_who_may_read_jobs(machine: Machine) -> None:
    job_id, installation = machine.run_job(), machine.installation
    outsider = installation.outsider_key()
    _, narrow = machine.context.keys.create(
        installation.owner, NewKey("narrow", scopes=frozenset({"api.fine_tuning.jobs.read"}))
    )

    async def steps(replica: Replica) -> None:
        await until(has_output(machine, job_id))
        for key in (installation.key or "", installation.viewer_key):
            assert await ask(replica, key, f"{machine.pods}/{job_id}/log") == (200, b"first\nsecond\n")
        assert (await ask(replica, outsider, f"{machine.pods}/{job_id}/log"))[0] == 404
        theirs = f"{BASE}/api/v1/namespaces/proj_2/pods"
        assert json.loads((await ask(replica, outsider, theirs))[1])["items"] == []
        assert (await ask(replica, outsider, f"{theirs}/{job_id}/log"))[0] == 404
        assert (await ask(replica, narrow, f"{machine.pods}/{job_id}/log"))[0] == 404
        assert json.loads((await ask(replica, narrow, machine.pods))[1])["items"] == []
        assert (await ask(replica, "wrong", machine.pods))[0] == 401

    scenario(machine, steps)


def test_pods_are_paged_and_selected(machine: Machine) -> None:
    jobs = [machine.run_job() for _ in range(3)]
    key = machine.installation.key or ""

    async def steps(replica: Replica) -> None:
        names, next_ = [], ""
        while True:
            _, body = await ask(replica, key, f"{machine.pods}?limit=2&continue={next_}")
            page = json.loads(body)
            names += [each["metadata"]["name"] for each in page["items"]]
            assert len(page["items"]) <= 2
            if not (next_ := page["metadata"].get("continue", "")):
                break
        assert names[:3] == jobs[::-1]
        for query, found in (
            (f"labelSelector=batch.kubernetes.io/job-name={jobs[1]}", [jobs[1]]),
            (f"fieldSelector=metadata.name!={jobs[1]}&limit=3", [jobs[2], jobs[0]]),
            (f"labelSelector=!llmariner.ai/kind&fieldSelector=metadata.name={jobs[0]}", []),
        ):
            _, body = await ask(replica, key, f"{machine.pods}?{query}")
            assert [each["metadata"]["name"] for each in json.loads(body)["items"]] == found, query
        log = f"{machine.pods}/{jobs[0]}/log"
        await until(has_output(machine, jobs[0]))
        for query, output in (
            ("limitBytes=8", b"first\nse"),
            ("tailLines=1", b"second\n"),
            ("sinceSeconds=3600", None),
        ):
            assert await ask(replica, key, f"{log}?{query}") == (200, output or b"first\nsecond\n"), query
        reader, writer = await follow(replica, key, f"{log}?follow=true&limitBytes=3")
        assert b"fir\r\n0\r\n" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 30)
        writer.close()

    scenario(machine, steps)


@pytest.mark.parametrize("output", [b"", b"\n", b"a", b"a\n", b"one\ntwo\nthree", b"one\n\ntwo\n", b"\n\n\n"])
@pytest.mark.parametrize("part_bytes", [1, 3, 100])
def test_the_tail_is_that_of_the_program_tail(output: bytes, part_bytes: int) -> None:
    def read(start: int) -> LogPart:
        data = output[start : start + part_bytes]
        return LogPart(data, start, start + len(data))

    lines = output.splitlines(keepends=True)
    for number in range(5):
        assert output[start_of_tail(read, number) :] == b"".join(
            lines[len(lines) - number :] if number < len(lines) else lines
        )


def test_a_part_of_an_output_by_time_is_refused_and_all_of_it_is_not() -> None:
    options = LogOptions.parse(b"sinceSeconds=60&follow=0&tailLines=")
    assert (options.follow, options.tail_lines) == (False, None)
    options.check_since(59)
    with pytest.raises(InvalidRequest, match="--tail"):
        options.check_since(61)


def test_selectors_compare_what_is_there() -> None:
    values = {"a": "1", "b": "2"}
    for selector, found in (
        ("", True),
        ("a=1,b!=1", True),
        ("a==2", False),
        ("c", False),
        ("!c", True),
        ("c!=1", True),
    ):
        assert matches(selector, values, "labelSelector") is found, selector
    for wrong in ("a in (1)", "!a=1", "a=1,,", "a>1", "a" * 3000):
        with pytest.raises(InvalidRequest):
            matches(wrong, values, "labelSelector")
