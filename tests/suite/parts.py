"""The parts of the suite: each runs, also after a failure of another, and a summary comes last."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

__all__ = ["PARTS", "main"]

PARTS = ("check", "setup", "spread", "whole")
ROOT = Path(__file__).resolve().parents[2]
# Folders whose tests run in parallel, one file per process. Those of other folders measure times, or start engines that use
# all cores.
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
_MANY = ["--numprocesses", "auto", "--maxprocesses", "8", "--dist", "loadfile"]
_NO_TESTS = 5


@dataclass
class Outcome:
    """The result of a part."""

    part: str
    code: int
    seconds: float
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        return self.code in (0, _NO_TESTS)

    def line(self) -> str:
        """The part's line of the summary."""
        counts = ", ".join(f"{count} {what}" for what, count in self.counts.items() if count)
        return f"  {self.part:8} {'ok' if self.succeeded else 'FAILED':8} {self.seconds:5.0f} s  {counts}".rstrip()


def command(part: str, *, fast: bool, report: Path) -> list[str]:
    """The command line of a part."""
    if part == "check":
        return ["make", "--no-print-directory", "check"]
    if part == "setup":
        return [sys.executable, "-m", "llmariner.standalone.setup"]
    marks = "not cluster and not engine" if fast else "not cluster"
    tests = [*_MANY, *SPREAD] if part == "spread" else [*(f"--ignore={folder}" for folder in SPREAD), "tests"]
    return [sys.executable, "-m", "pytest", "-q", "-m", marks, f"--junitxml={report}", *tests]


def run(part: str, *, fast: bool) -> Outcome:
    """Run a part; its output is not captured."""
    began = time.monotonic()
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = subprocess.run(command(part, fast=fast, report=report), cwd=ROOT, check=False).returncode
        outcome = Outcome(part, code, time.monotonic() - began)
        if report.exists():
            _read(report, outcome)
    return outcome


def _read(report: Path, outcome: Outcome) -> None:
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        word = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        outcome.counts[word] += 1
        if word == "failed":
            outcome.failed.append(f"{case.get('classname')}::{case.get('name')}")


def main(arguments: list[str]) -> int:
    """The exit status: 0 if every part succeeded."""
    parser = argparse.ArgumentParser(prog="python -m tests.suite", description=__doc__)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--fast", action="store_true", help="without the tests that need the engine")
    options = parser.parse_args(arguments)
    outcomes = [run(part, fast=options.fast) for part in options.parts]
    print("\nSummary")
    for outcome in outcomes:
        print(outcome.line())
        for name in outcome.failed:
            print(f"           {name}")
    return 0 if all(outcome.succeeded for outcome in outcomes) else 1
