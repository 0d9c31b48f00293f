"""The chart of losses: what is where, and that it stays in its rectangle whatever the numbers are."""

from __future__ import annotations

import math

import pytest

from llmariner.cli.fine_tuning.loss_chart import Point, draw


def test_a_falling_loss_runs_from_the_top_left_to_the_bottom_right() -> None:
    chart = draw([(step, 3.0 - step / 50) for step in range(1, 101)], [], 100, width=29, height=8, unicode=False)
    plot = [line.partition("|")[2] for line in chart.lines[:-2]]
    starts = [len(row) - len(row.lstrip()) for row in plot]
    assert starts == sorted(starts)
    assert plot[0].startswith("*")
    assert len(plot[-1]) == 20, "the last step is at the right edge"
    assert chart.lines[0].startswith("  2.970")
    assert chart.lines[-3].startswith("  1.0")
    assert chart.lines[-1].endswith("step 100")


def test_a_job_that_has_begun_fills_its_part_of_the_width() -> None:
    chart = draw([(step, 2.0 - step / 50) for step in range(1, 26)], [], 100, width=49, height=8)
    rows = [line.partition("│")[2] for line in chart.lines[:-2]]
    assert max(map(len, rows)) == 10, "a quarter of 40 columns"
    assert all("\u2800" < character <= "\u28ff" for row in rows for character in row.strip() if character != " ")


def test_validations_are_crosses_above_the_line() -> None:
    training, validation = [(step, 1.0) for step in range(1, 11)], [(5, 2.0), (10, 2.0)]
    chart = draw(training, validation, 10, width=29, height=6, unicode=False)
    assert [line for line, _ in chart.crosses] == [0, 0]
    assert [chart.lines[line][column] for line, column in chart.crosses] == ["x", "x"]
    assert "*" in chart.lines[-3]


LOSSES: dict[str, list[Point]] = {
    "one step": [(1, 0.5)],
    "equal": [(step, 0.5) for step in range(1, 9)],
    "not finite": [(1, math.nan), (2, math.inf), (3, 1.0), (4, -math.inf)],
    "huge": [(1, 1e300), (2, -1e300), (3, 0.0)],
    "later than the end": [(1, 2.0), (500, 1.0)],
    "many": [(step, 1.0 / step) for step in range(1, 50_001)],
    "gaps": [(1, 2.0), (90, 1.0)],
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("width", "height"), [(80, 14), (20, 4), (1, 1)])
def test_the_chart_stays_in_its_rectangle(name: str, width: int, height: int) -> None:
    chart = draw(LOSSES[name], LOSSES[name][:3], 100, width=width, height=height)
    assert len(chart.lines) == max(4, height)
    assert max(map(len, chart.lines)) <= max(width, 21)


def test_without_losses_there_is_no_chart() -> None:
    assert draw([], [], 100, width=80, height=14).lines == []
    assert draw([(1, math.nan)], [], 100, width=80, height=14).lines == []
