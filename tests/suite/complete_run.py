"""Runs pytest with the arguments that follow; its status is that of an internal error where tests that it chose did not run.

Pytest's own status does not tell: after some worker processes have died, the others end without what is left, and who has
asked them hears that tests failed, or that all is well.
"""

import os
import sys
from collections.abc import Collection

import pytest


class _Reported:
    """The tests of which something was reported."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._ids.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        chosen = _chosen(session)
        if chosen is None or not self._ids.issuperset(chosen):
            print("\nNot all tests have run.", flush=True)
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def _chosen(session: pytest.Session) -> Collection[str] | None:
    """The tests that were to run; None: workers that were to find them have died before."""
    if (distributed := session.config.pluginmanager.getplugin("dsession")) is None:
        items: list[pytest.Item] | None = getattr(session, "items", None)
        return None if items is None else [each.nodeid for each in items]
    found: Collection[str] | None = getattr(distributed.sched, "collection", None)
    return found


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # as `python -m pytest` has it
    sys.exit(pytest.main(sys.argv[1:], plugins=[_Reported()]))
