"""The load driver measures the cost of a process with a defined cost, and reports failures as failures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .children import running
from .load_driver import Load, LoadError, drive
from .measures import request_cost, reuse
from .run import engine
from .target import Started

pytestmark = pytest.mark.quiet


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with running(engine(), tmp_path_factory.mktemp("bench")) as started:
        yield started


def test_a_phase_ends_after_its_requests_and_measures_cost_and_latency(direct: Started) -> None:
    phase = drive(Load(connections=4, seconds=30, warm=8, tokens=4, count=500), direct)
    assert phase.completed == 500
    assert 0 < phase.cpu / phase.completed < 0.001
    assert 0 < phase.latency_ms["p50"] <= phase.latency_ms["p99"] < 1000


def test_a_phase_ends_after_its_duration(direct: Started) -> None:
    phase = drive(Load(connections=2, seconds=0.3, warm=1, tokens=1), direct)
    assert 0.3 <= phase.seconds < 2


def test_a_stream_is_timed_at_its_first_token(direct: Started) -> None:
    load = Load(connections=1, seconds=5, warm=1, tokens=10, stream=True, token_interval_ms=20, count=2)
    phase = drive(load, direct)
    assert phase.first_ms["p50"] < 100 < 180 < phase.latency_ms["p50"]


def test_an_unsuccessful_response_is_an_error_with_its_message(
    direct: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Load, "body", lambda _: {"messages": [], "x_script": {"fail_status": 418}})
    with pytest.raises(LoadError, match="418"):
        drive(Load(connections=1, seconds=1, warm=1, tokens=1), direct)


def test_keep_alive_clients_open_few_connections(direct: Started) -> None:
    assert 0 < reuse.measure(direct, direct) <= 2 * request_cost.LOAD.connections / reuse.COUNT


def test_a_missing_process_is_an_error(direct: Started) -> None:
    with pytest.raises(LoadError, match="ended early"):
        drive(Load(connections=1, seconds=1, warm=1, tokens=1), Started("nobody", 1, direct.pid, {}))
