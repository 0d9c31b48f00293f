"""A cold start is timed until a valid response; a failure is never a figure."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .children import StartError, free_port
from .measures.cold_start import Question, measure
from .peers import bare
from .run import engine
from .target import Target


def test_the_bare_server_responds_in_time_and_its_cpu_time_is_measured(tmp_path: Path) -> None:
    port = free_port()
    start = measure(Target("bare", [sys.executable, bare.__file__, str(port)], port), Question("GET", "/"), tmp_path)
    assert 10 < start.cpu < 5000
    assert 10 < start.wall < 20_000


def test_an_error_status_counts_as_a_response_unless_success_is_required(tmp_path: Path) -> None:
    unknown = Question("GET", "/no/such/path")
    assert measure(engine(), unknown, tmp_path).wall > 0
    with pytest.raises(StartError, match="answered 404"):
        measure(engine(), Question("GET", "/no/such/path", must_succeed=True), tmp_path)


def test_a_failure_is_not_a_response(tmp_path: Path) -> None:
    body = b'{"x_script":{"fail_status":500}}'
    with pytest.raises(StartError, match="answered 500"):
        measure(engine(), Question("POST", "/v1/chat/completions", body), tmp_path)


def test_the_log_of_a_process_that_exits_is_quoted(tmp_path: Path) -> None:
    target = Target("broken", [sys.executable, "-c", "raise SystemExit('no such option')"], free_port())
    with pytest.raises(StartError, match="no such option"):
        measure(target, Question("GET", "/"), tmp_path)
