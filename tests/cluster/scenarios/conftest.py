"""The platform that these scenarios meet: installed on the test cluster, or they are skipped with what starts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..lab.places import chosen
from ..lab.processes import running
from ..lab.wait import LabError
from ..platform.installed import Installed

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every scenario needs the cluster, and waits for pods."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def installed() -> Installed:
    """The platform; a scenario may read and change it, and leaves it as it found it."""
    lab = chosen()
    if not {"kubelet", "ingress"} <= running(lab).keys():
        pytest.skip("no test cluster is up; `make cluster` starts it")
    platform = Installed(lab)
    try:
        assert platform.address
        assert platform.api_key
    except LabError:
        pytest.skip("the platform is not installed; `python -m tests.cluster.platform up` installs it")
    return platform
