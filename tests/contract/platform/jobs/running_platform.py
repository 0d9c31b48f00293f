"""A process that runs jobs in a folder until it is killed: FOLDER SLOTS."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    spec = importlib.util.spec_from_file_location("conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    conftest = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conftest)
    jobs = conftest.process_jobs(Path(sys.argv[1]), conftest.Memory(), slots=int(sys.argv[2]))
    jobs.start()
    time.sleep(600)
