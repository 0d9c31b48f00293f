"""A fifth of one route's traffic goes to a new revision, and then none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ...platform.installed import Installed
from ..functions import Call, Functions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_FUNCTION = "tokenize"
_SHARE = 20
_CALLS = 200
# The new revision is recognized by its response: it rejects a body as large as this one.
_LIMIT = {"name": "LLMARINER_BODY_LIMIT", "value": "1024"}
_LARGE = Call("POST", "/v1/tokenize", {}, {"model": "no-such-model", "prompt": "x" * 2000})


def test_traffic_is_split_and_restored(installed: Installed) -> None:
    functions = Functions(installed)
    before = functions.services()[_FUNCTION]
    old = before["status"]["latestReadyRevisionName"]
    change: list[dict[str, Any]] = [
        {"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": _LIMIT},
        {"op": "add", "path": "/spec/traffic", "value": [{"revisionName": old, "percent": 100}]},
    ]
    counted = {}
    with functions.changed(_FUNCTION, change):
        new = functions.services()[_FUNCTION]["status"]["latestCreatedRevisionName"]
        assert new != old
        for share in (0, _SHARE, 0):
            split = [{"revisionName": old, "percent": 100 - share}, {"revisionName": new, "percent": share}]
            functions.patch(_FUNCTION, [{"op": "replace", "path": "/spec/traffic", "value": split}])
            functions.ready(_FUNCTION)
            _settled(functions)
            counted[share] = _refused(functions)
            print(f"\n{share} % to the new revision: {counted[share]} of {_CALLS} calls")
            if share:
                # Within four standard deviations of what a fair draw gives.
                room = 4 * math.sqrt(_CALLS * share / 100 * (1 - share / 100))
                assert abs(counted[share] - _CALLS * share / 100) < room
            else:
                assert counted[share] == 0
    assert _refused(functions, 20) == 0


def _settled(functions: Functions) -> None:
    """The Gateways apply the split shortly after Knative configured them; both revisions are running."""
    _refused(functions, 60)


def _refused(functions: Functions, calls: int = _CALLS) -> int:
    statuses = [functions.ask_gateway(_LARGE).status for _ in range(calls)]
    assert set(statuses) <= {404, 413}, sorted(set(statuses))
    return statuses.count(413)
