"""Jobs of a platform that does not run as root: the tests of jobs again, as a user without rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

_USER = "65534"
_CHOSEN = "program_is_started or sees_nothing or gets_no_namespace or sockets_of_the_machine or leads_to_no_service"


def test_a_user_without_rights_runs_jobs_in_namespaces_too() -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, and by setpriv")
    # That user may read the checkout and the interpreter, wherever they are, and has no other right.
    become = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups"]
    become += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    if subprocess.run([*become, "unshare", "--user", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("the kernel allows users other than root no user namespaces")
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, int(_USER), int(_USER))
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={home}/tests", "-k", _CHOSEN]
        files = [str(here / "test_jobs.py"), str(here / "test_local_processes.py")]
        done = subprocess.run(
            [*become, sys.executable, "-m", "pytest", *options, *files],
            env={**os.environ, "HOME": home, "TMPDIR": home},
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout, done.stdout
