"""A waiting stream gets a comment at each change of phase, and at intervals."""

from __future__ import annotations

import time

from llmariner.gateway.responses.heartbeat import Heartbeat


def test_each_phase_is_reported_once() -> None:
    heart = Heartbeat(60)
    phases = ("asleep", "asleep", "starting", "loading", "loading", "starting")
    assert [heart.due(phase) for phase in phases] == [True, False, True, True, False, True]


def test_a_long_phase_is_reported_again_after_the_interval() -> None:
    heart = Heartbeat(0.05)
    assert heart.due("loading")
    assert not heart.due("loading")
    time.sleep(0.06)
    assert heart.due("loading")


def test_the_status_is_checked_at_least_once_per_interval() -> None:
    assert Heartbeat(0.1).poll_interval == 0.1
    assert Heartbeat(60).poll_interval < 1
