"""A process that runs jobs in a folder until it is killed: FOLDER SLOTS."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from .conftest import Memory, process_jobs

if __name__ == "__main__":
    jobs = process_jobs(Path(sys.argv[1]), Memory(), slots=int(sys.argv[2]))
    jobs.start()
    time.sleep(600)
