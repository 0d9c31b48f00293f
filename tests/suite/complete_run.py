"""Runs pytest with the arguments that follow; its status is that of an internal error where tests that it chose did not run.

Pytest's own status does not tell: after some worker processes have died, the others end without what is left, and who has
asked them hears that tests failed, or that all is well.
"""

import os
import sys
from collections.abc import Collection, Generator
from typing import Any

import pytest


class _Complete:
    """Has all tests run, and compares them with those of which something was reported."""

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # The last of a test, or the only one of a test whose worker process died: the others come before its end.
        if report.when not in ("setup", "call"):
            self._ids.add(report.nodeid)

    @pytest.hookimpl(wrapper=True, optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config) -> Generator[None, Any, Any]:
        """That of `--dist loadfile` waits for ever where the last worker process dies.

        It has the one in its place run the files again that were complete, and these have nothing to run.
        """
        scheduling = yield
        if config.getoption("dist") != "loadfile":
            return scheduling
        remove = scheduling.remove_node

        def remove_node(node: Any) -> Any:
            files = scheduling.assigned_work.get(node, {})
            for name in [each for each, tests in files.items() if all(tests.values())]:
                del files[name]
            return remove(node)

        scheduling.remove_node = remove_node
        return scheduling

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
    sys.exit(pytest.main(sys.argv[1:], plugins=[_Complete()]))
