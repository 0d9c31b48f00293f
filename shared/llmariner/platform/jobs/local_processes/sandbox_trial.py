"""Finds out whether this machine can run jobs: some containers and distributions allow no namespaces."""

from __future__ import annotations

import sys

from llmariner.platform.jobs import Job, Network, Phase
from llmariner.platform.jobs.local_processes.control_group import make_control_group, remove_control_group
from llmariner.platform.jobs.local_processes.disk_usage import delete_tree
from llmariner.platform.jobs.local_processes.job_folder import JobFolder
from llmariner.platform.jobs.local_processes.job_run import JobRun, JobRunner, Stopped

__all__ = ["TRIAL", "try_control_group", "try_sandbox"]

TRIAL = "trial"
"""The name of the trial's folder among those of jobs."""


def try_sandbox(runner: JobRunner, folder: JobFolder, network: Network) -> str:
    """Run a command that does nothing in such a network; returns why this machine cannot, for users, else ""."""
    if not sys.platform.startswith("linux"):
        return "jobs on one machine need Linux."
    remove_control_group(folder)  # of a platform that was killed meanwhile
    delete_tree(folder.path)
    try:
        folder.save(Job(folder.path.name, "", ":", network=network))
        run = JobRun("", 0)
        runner.prepare(folder, run)
        runner.execute(folder, run, lambda: None)
        result = folder.result()
        if result is None or result.phase is not Phase.SUCCEEDED:
            return (result.reason if result else "") or "the trial was interrupted."
    except Stopped:
        return "the platform stops."
    except OSError as error:
        return f"{error}."
    finally:
        delete_tree(folder.path)
    return ""


def try_control_group(folder: JobFolder) -> bool:
    """Whether each job has a control group of its own on this machine."""
    try:
        folder.path.mkdir(mode=0o700, exist_ok=True)
        found = make_control_group(folder, 1 << 30, 1)
        remove_control_group(folder)
    except OSError:
        return False
    finally:
        delete_tree(folder.path)
    return found is not None
