"""The parts of the suite: each runs, also after a failure of another, and a summary comes last."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

from llmariner.compiled.build import BuildFailed, build, folder_of
from llmariner.settings import StandaloneSettings, environment

__all__ = ["PARTS", "PYTEST", "main"]

PARTS = ("check", "setup", "spread", "waiting", "compiled", "engine", "quiet", "compiled-quiet")
_WITHOUT_TESTS = ("check", "setup")
ROOT = Path(__file__).resolve().parents[2]
# Folders whose tests compute, one file per process. Those of other folders mostly wait: for processes, engines, timers.
_COMPUTING = (
    "unit",
    "functions",
    "contract",
    "cli",
    "docs",
    "manifests",
    "kubernetes_api",
    "eventing",
    "identity",
    "style",
)
SPREAD = [f"tests/{name}" for name in _COMPUTING]
# Every test of it needs the cluster: it is not worth importing.
SCENARIOS = "tests/cluster/scenarios"
# What runs a second time with the token path compiled.
COMPILED = ["tests/unit/gateway", "tests/server", "tests/gateway", "tests/bench/test_instructions.py"]
# The mark of tests that measure; those of tests that run one at a time, as real engines. Folders of SPREAD have none.
QUIET, ONE_AT_A_TIME = "quiet", ("engine", "images")
_CORES = os.cpu_count() or 1
_PROCESSES = {
    # One and a half a core: a worker waits too, for a database or a process.
    "spread": ("--numprocesses", str(min(8, _CORES * 3 // 2 or 1)), "--dist", "loadfile"),
    # A process that waits needs no core: of 227 seconds, a worker computed 7 to 14.
    "waiting": ("--numprocesses", str(min(8, 3 * _CORES)), "--dist", "loadfile"),
}
_PROCESSES["compiled"] = _PROCESSES["waiting"]
# Of 379 seconds, tests that measure short times computed 108: two and the compiled two leave each other the cores.
_PROCESSES["quiet"] = ("--numprocesses", str(min(2, _CORES)), "--dist", "loadfile")
_PROCESSES["compiled-quiet"] = _PROCESSES["quiet"]
PYTEST = [sys.executable, str(Path(__file__).with_name("complete_run.py"))]
# Its status where tests failed and all ran: after any other one there are some that nobody has asked.
_TESTS_FAILED = 1
# Of a part in which something has ended pytest as if all were well: no test ran, or one failed.
_ENDED_WELL = 5
_MAX_AGAIN = 10


@dataclass
class Outcome:
    """The result of a part."""

    part: str
    code: int
    seconds: float
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    again: int = 0
    """How many failed, and passed when they ran again."""

    @property
    def succeeded(self) -> bool:
        return self.code == 0

    def line(self) -> str:
        """The part's line of the summary."""
        counts = ", ".join(f"{count} {what}" for what, count in self.counts.items() if count)
        counts += f", {self.again} of the failed passed when run again" if self.again else ""
        return f"  {self.part:14} {'ok' if self.succeeded else 'FAILED':8} {self.seconds:5.0f} s  {counts}".rstrip()


def command(part: str, *, fast: bool, report: Path) -> list[str]:
    """The command line of a part."""
    if part == "check":
        return ["make", "--no-print-directory", "check"]
    if part == "setup":
        return [sys.executable, "-m", "llmariner.standalone.setup"]
    # What computes for long leaves the cores to what waits for an answer in time.
    behind = ["nice", "-n", "5"] if part == "spread" else []
    return [*behind, *pytest(part, fast=fast, report=report), *_PROCESSES.get(part, ())]


def pytest(part: str, *, fast: bool, report: Path) -> list[str]:
    """The command line that runs a part's tests in one process."""
    engine = " or ".join(ONE_AT_A_TIME)
    if part == "engine":
        marks = f"not cluster and ({engine})"
    else:
        marks = f"not cluster and not ({engine}) and {'' if part.endswith(QUIET) else 'not '}{QUIET}"
    if fast:
        marks += " and not engine"
    if part == "spread":
        tests = SPREAD
    elif part.startswith("compiled"):
        tests = COMPILED
    else:
        tests = [*(f"--ignore={folder}" for folder in (*SPREAD, SCENARIOS)), "tests"]
    # Parts that run at the same time each know their own failures.
    cache = f"cache_dir=.pytest_cache/{part}"
    return [*PYTEST, "-q", "-m", marks, "-o", cache, f"--junitxml={report}", *tests]


def run(lanes: Sequence[Sequence[str]], *, fast: bool) -> list[Outcome]:
    """Run lanes at the same time, and a lane's parts one after the other.

    Tests that fail run once more when all lanes have ended, alone. The first lane's output is not captured; that of each
    other part comes when all have ended.
    """
    with TemporaryDirectory() as name, ThreadPoolExecutor(len(lanes)) as threads:
        folder = Path(name)

        def follow(number: int) -> list[Outcome]:
            return [_run(part, folder, _log(folder, part) if number else None, fast) for part in lanes[number]]

        outcomes = list(threads.map(follow, range(len(lanes))))
        for outcome in chain(*outcomes):
            log = _log(folder, outcome.part)
            if log.exists():
                print(f"\n{outcome.part}:\n{log.read_text()}", flush=True)
            if outcome.code == _TESTS_FAILED and 0 < len(outcome.failed) <= _MAX_AGAIN:
                _run_again(outcome, folder, fast)
    return list(chain(*outcomes))


def _log(folder: Path, part: str) -> Path:
    return folder / f"{part}.log"


def _run(part: str, folder: Path, log: Path | None, fast: bool) -> Outcome:
    began, report = time.monotonic(), folder / f"{part}.xml"
    code = _call(command(part, fast=fast, report=report), part, log)
    outcome = Outcome(part, code, time.monotonic() - began)
    for name, word in _cases(report):
        outcome.counts[word] += 1
        if word == "failed":
            outcome.failed.append(name)
    if code == 0 and part not in _WITHOUT_TESTS and (outcome.failed or not outcome.counts):
        outcome.code = _ENDED_WELL
    return outcome


def _run_again(outcome: Outcome, folder: Path, fast: bool) -> None:
    began = time.monotonic()
    last_failed = ["--last-failed", "--last-failed-no-failures", "none"]
    report = folder / f"{outcome.part}-again.xml"
    code = _call([*pytest(outcome.part, fast=fast, report=report), *last_failed], outcome.part, None)
    # What failed is read from a cache that may not have been written: others ran then, or none.
    passed = {name for name, word in _cases(report) if word == "passed"}
    if code == 0 and passed.issuperset(outcome.failed):
        outcome.code, outcome.again = 0, len(outcome.failed)
    outcome.seconds += time.monotonic() - began


def _call(command_line: list[str], part: str, log: Path | None) -> int:
    with log.open("wb") if log else nullcontext() as output:
        try:
            compiled = compiled_token_path() if part.startswith("compiled") else "off"
        except BuildFailed as error:
            print(error, flush=True)
            return 1
        # Platforms that tests start do not compile in the background.
        env = {**os.environ, "LLMARINER_COMPILED": compiled}
        return subprocess.run(
            command_line, cwd=ROOT, env=env, check=False, stdout=output, stderr=subprocess.STDOUT if log else None
        ).returncode


def compiled_token_path() -> str:
    """The folder of the compiled token path, which is made if it is missing. Raises BuildFailed."""
    folder = folder_of(StandaloneSettings.load(environment()).cache)
    if not folder.is_dir():
        build(folder)
    return str(folder)


def _cases(report: Path) -> list[tuple[str, str]]:
    """The tests of a report, each with what became of it. None of a part that was killed, also while it wrote it."""
    try:
        cases = list(ElementTree.parse(report).iter("testcase"))
    except (FileNotFoundError, ElementTree.ParseError):
        return []
    return [(f"{case.get('classname')}::{case.get('name')}", _word({child.tag for child in case})) for case in cases]


def _word(kinds: set[str]) -> str:
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


def lanes_of(argument: str) -> list[list[str]]:
    """The lanes of one argument, which run at the same time, each with its parts. Raises ValueError for an unknown part."""
    lanes = [lane.split(",") for lane in argument.split("+")]
    if not set(chain(*lanes)) <= set(PARTS):
        raise ValueError(argument)
    return lanes


def main(arguments: list[str]) -> int:
    """The exit status: 0 if every part succeeded."""
    parser = argparse.ArgumentParser(prog="python -m tests.suite", description=__doc__)
    parser.add_argument(
        "lanes",
        nargs="+",
        type=lanes_of,
        metavar="PART[,PART][+PART[,PART]]",
        help=f"of {', '.join(PARTS)}: those joined by + run at the same time, by a comma one after the other",
    )
    parser.add_argument("--fast", action="store_true", help="without the tests that need the engine")
    options = parser.parse_args(arguments)
    outcomes = [outcome for lanes in options.lanes for outcome in run(lanes, fast=options.fast)]
    print("\nSummary")
    for outcome in outcomes:
        print(outcome.line())
        for name in outcome.failed:
            print(f"           {name}")
    return 0 if all(outcome.succeeded for outcome in outcomes) else 1
