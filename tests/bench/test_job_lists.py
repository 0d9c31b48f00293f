"""The measurement of the lists of jobs runs; how long they take is for a quiet machine to say."""

from __future__ import annotations

import pytest

from .job_lists import main


def test_every_list_is_asked_and_finds_its_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--jobs", "150", "--rounds", "1", "--database", "sqlite"])
    _, *lines, _ = capsys.readouterr().out.splitlines()
    assert [int(line.split()[-2]) for line in lines] == [20, 100, 75, 5, 20, 100, 75, 5, 3, 1, 0, 15]
