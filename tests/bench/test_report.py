"""The report has measured and missing figures, and computes ratios per round."""

from __future__ import annotations

import pytest

from .report import render
from .results import Results


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    results = Results()
    for ours, theirs in ((10, 10), (40, 20), (90, 30)):
        results.add("request_cpu_us", "gateway", ours)
        results.add("request_cpu_us", "envoy", theirs)
    results.add("request_cpu_us", "envoy", 1000)
    assert results.ratio("request_cpu_us", "gateway", "envoy") == pytest.approx(2)
    assert "RATIO gateway_cpu_per_request_vs_envoy 2.000" in render(results).splitlines()


def test_a_measure_without_figures_has_no_line_and_a_skipped_peer_has_a_reason() -> None:
    results = Results()
    results.add("idle_rss_mib", "gateway", 31.5)
    results.skipped["nginx"] = "no nginx on this machine"
    lines = render(results).splitlines()
    assert "MEMORY chat_function_idle_rss_mib 31.5" in lines
    assert "SKIPPED nginx: no nginx on this machine" in lines
    assert not [line for line in lines if line.startswith("RATIO")]


def test_a_bar_over_the_width_is_truncated_and_keeps_its_figure() -> None:
    results = Results()
    for name, value in (("nginx", 20.0), ("envoy", 70.0), ("litellm", 14_000.0)):
        results.add("token_cpu_us", name, value)
    rows = {line.split()[0]: line for line in render(results).splitlines() if "█" in line}
    assert rows["litellm"].endswith("… 14,000.0")
    assert rows["nginx"].count("█") < rows["envoy"].count("█") < rows["litellm"].count("█")


def test_the_slowest_function_is_compared_with_the_bare_framework() -> None:
    results = Results()
    for name, value in (("bare FastAPI", 400.0), ("models", 440.0), ("api_keys", 500.0), ("bare uvicorn", 100.0)):
        results.add("cold_cpu_ms", name, value)
    assert "RATIO cold_start_slowest_vs_bare_fastapi 1.250 (api_keys)" in render(results).splitlines()
