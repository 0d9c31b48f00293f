"""A part that fails keeps no other from being run, and the end says which it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmariner.compiled.build import BuildFailed

from . import parts

TESTS = {
    "tests/first/test_first.py": "def test_good():\n    pass\n\ndef test_bad():\n    assert False\n",
    "tests/second/test_second.py": "import pytest\n\ndef test_good(): pass\n\ndef test_other():\n    pytest.skip('x')\n\n"
    "@pytest.mark.quiet\ndef test_times(): pass\n\n@pytest.mark.engine\ndef test_answers(): pass\n\n"
    "@pytest.mark.engine\n@pytest.mark.quiet\ndef test_fast_answers(): pass\n",
}


@pytest.fixture
def small_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of tests, the first of which fails, and a check."""
    for name, text in TESTS.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_text(text)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n  quiet\n  engine\n  images\n  cluster\naddopts = --import-mode=importlib\n"
    )
    (tmp_path / "Makefile").write_text("check:\n\t@test ! -e wrong\n")
    monkeypatch.setattr(parts, "ROOT", tmp_path)
    monkeypatch.setattr(parts, "SPREAD", ["tests/first"])
    monkeypatch.setattr(parts, "_PROCESSES", {})
    # Each of these many short runs would import them.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return tmp_path


def test_every_part_runs_and_the_summary_covers_all(small_suite: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert parts.main(["check", "spread", "waiting", "quiet", "engine"]) == 1
    out = capfd.readouterr().out
    check, spread, failed, waiting, quiet, engine = out.rpartition("\nSummary\n")[2].splitlines()
    assert check.split()[:2] == ["check", "ok"]
    assert spread.split()[:2] == ["spread", "FAILED"]
    assert spread.endswith("1 passed, 1 failed")
    assert "test_bad" in failed
    assert waiting.split()[:2] == ["waiting", "ok"]
    assert waiting.endswith("1 passed, 1 skipped")
    assert quiet.split()[:2] == ["quiet", "ok"]
    assert quiet.endswith("1 passed")
    assert engine.split()[:2] == ["engine", "ok"]
    assert engine.endswith("2 passed")


def test_a_test_that_passes_the_second_time_is_reported(small_suite: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flaky = "import pathlib\n\ndef test_flaky():\n    mark = pathlib.Path('ran')\n    ran = mark.exists()\n"
    (small_suite / "tests/second/test_flaky.py").write_text(flaky + "    mark.touch()\n    assert ran\n")
    assert parts.main(["waiting"]) == 0
    waiting, failed = capfd.readouterr().out.rpartition("\nSummary\n")[2].splitlines()
    assert waiting.split()[:2] == ["waiting", "ok"]
    assert waiting.endswith(", 1 of the failed passed when run again")
    assert "test_flaky" in failed


# What a test file does the first time: a test fails, and the next one, which never passes, is not asked.
FIRST = "import pathlib, pytest, os, signal\n\nmark = pathlib.Path('ran')\nfirst = not mark.exists()\nmark.touch()\n"
NOT_ASKED = {
    "exits": "def test_flaky(): assert not first\n\ndef test_exits(): pytest.exit('enough') if first else None\n\n",
    "is killed": "def test_flaky(): assert not first\n\ndef test_dies(): os.kill(os.getpid(), signal.SIGKILL)\n\n",
    "is not read": "assert not first\n\n",
    "ends well": "def test_ends(): os._exit(0) if first else None\n\n",
    "stops well": "def test_stops(): pytest.exit('enough', 0) if first else None\n\n",
}


@pytest.mark.parametrize("how", NOT_ASKED)
def test_what_fails_runs_again_only_where_all_others_ran(
    small_suite: Path, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    (small_suite / "tests/second/test_cut.py").write_text(FIRST + NOT_ASKED[how])
    (small_suite / "tests/second/test_rest.py").write_text("def test_never_passes(): assert False\n")
    assert parts.main(["waiting"]) == 1
    assert capfd.readouterr().out.rpartition("\nSummary\n")[2].split()[:2] == ["waiting", "FAILED"]


# The last test of a part, or its end, hides that another one failed, or that itself did not come to its end.
HIDDEN = {
    "the last test stops": "import pytest\n\ndef test_bad(): assert False\n\ndef test_z(): pytest.exit('enough', 0)\n",
    "the end is forged": "def test_bad(request): request.session.config.hide(); assert False\n",
    "no test failed": "import pytest\n\ndef test_good(): pass\n\ndef test_z(): pytest.exit('enough', 0)\n",
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_part_that_something_ended_as_if_all_were_well_has_failed(small_suite: Path, how: str) -> None:
    (small_suite / "tests/conftest.py").write_text(
        "hidden = []\n\ndef pytest_configure(config): config.hide = lambda: hidden.append(1)\n\n"
        "def pytest_sessionfinish(session):\n    if hidden: session.exitstatus = 0\n"
    )
    (small_suite / "tests/second/test_z.py").write_text(HIDDEN[how])
    assert parts.main(["waiting"]) == 1


# A worker process that is killed; not the one in which failed tests run again.
DIES = (
    "import os, signal\n\nworker = os.environ.get('PYTEST_XDIST_WORKER')\n\n"
    "def die(): os.kill(os.getpid(), signal.SIGKILL)\n"
)


@pytest.mark.parametrize("when", ["in a test", "before"])
def test_what_workers_left_that_died_has_not_passed(
    small_suite: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist -p xdist.looponfail")
    workers = ("--numprocesses", "2", "--max-worker-restart", "1", "--dist", "loadfile")
    monkeypatch.setattr(parts, "_PROCESSES", {"waiting": workers})
    (small_suite / "tests/second/test_rest.py").write_text("def test_never_passes(): assert False\n")
    if when == "before":
        (small_suite / "tests/conftest.py").write_text(f"{DIES}\nif worker not in (None, 'gw0'): die()\n")
    else:
        dies = f"{DIES}\ndef test_dies():\n    if worker: die()\n\ndef test_next(): pass\n\ndef test_last(): pass\n"
        for name in "ab":
            (small_suite / f"tests/second/test_{name}.py").write_text(dies)
    assert parts.main(["waiting"]) == 1


def test_a_part_ends_whose_last_worker_died(
    small_suite: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p xdist -p xdist.looponfail")
    monkeypatch.setattr(parts, "_PROCESSES", {"waiting": ("--numprocesses", "1", "--dist", "loadfile")})
    (small_suite / "tests/second/test_z.py").write_text(FIRST + f"{DIES}\ndef test_dies():\n    if first: die()\n")
    assert parts.main(["waiting"]) == 1
    assert capfd.readouterr().out.rpartition("\nSummary\n")[2].splitlines()[0].endswith("2 passed, 1 skipped, 1 failed")


def test_a_failure_that_no_cache_has_kept_stays_one(small_suite: Path) -> None:
    (small_suite / ".pytest_cache").write_text("a file where the folder should be")
    assert parts.main(["spread"]) == 1


def test_a_part_without_tests_has_not_succeeded(small_suite: Path) -> None:
    (small_suite / "tests/first/test_first.py").write_text("")
    assert parts.main(["spread"]) == 1


def test_a_report_that_was_cut_off_hides_no_other_part(small_suite: Path) -> None:
    report = small_suite / "report.xml"
    report.write_text("<testsuites><testsuite><testcase classname='a' na")
    assert parts._cases(report) == []


def test_parts_run_at_the_same_time_and_each_repeats_its_own_failures(
    small_suite: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder, mine, other in (("first", "a", "b"), ("second", "b", "a")):
        waits = (
            "import pathlib, time\n\ndef test_meets():\n    ends = time.monotonic() + 60\n"
            f"    pathlib.Path('{mine}').touch()\n    while not pathlib.Path('{other}').exists():\n"
            "        assert time.monotonic() < ends\n        time.sleep(0.05)\n"
        )
        (small_suite / f"tests/{folder}/test_meets.py").write_text(waits)
    assert parts.main(["spread+waiting"]) == 1
    out = capfd.readouterr().out
    spread, failed, waiting = out.rpartition("\nSummary\n")[2].splitlines()
    assert spread.endswith("2 passed, 1 failed")
    assert "test_bad" in failed
    assert waiting.endswith("2 passed, 1 skipped")
    assert "\nwaiting:\n" in out


def test_parts_of_a_lane_follow_each_other_beside_another_lane(
    small_suite: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # The check of the second lane meets the first lane's tests, and only the part after it lets them end.
    (small_suite / "tests/first/test_first.py").write_text(
        "import pathlib, time\n\ndef test_meets():\n    ends = time.monotonic() + 60\n"
        "    pathlib.Path('met').touch()\n    while not pathlib.Path('followed').exists():\n"
        "        assert time.monotonic() < ends\n        time.sleep(0.05)\n"
    )
    (small_suite / "Makefile").write_text("check:\n\t@test ! -e followed; until test -e met; do sleep 0.05; done\n")
    (small_suite / "tests/second/test_second.py").write_text(
        "import pathlib\n\ndef test_follows():\n    assert pathlib.Path('met').exists()\n"
        "    pathlib.Path('followed').touch()\n"
    )
    assert parts.main(["spread+check,waiting"]) == 0
    lines = capfd.readouterr().out.rpartition("\nSummary\n")[2].splitlines()
    assert [line.split()[:2] for line in lines] == [["spread", "ok"], ["check", "ok"], ["waiting", "ok"]]


@pytest.mark.parametrize("argument", ["spread+", "spread,all", ",spread", "spread waiting"])
def test_an_unknown_part_is_refused(argument: str) -> None:
    with pytest.raises(SystemExit):
        parts.main([argument])


def test_a_token_path_that_cannot_be_compiled_hides_no_other_part(
    small_suite: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise BuildFailed("no compiler")

    monkeypatch.setattr(parts, "build", fail)
    monkeypatch.setattr(parts, "folder_of", lambda _: small_suite / "nowhere")
    assert parts.main(["compiled+waiting"]) == 1
    out = capfd.readouterr().out
    assert "no compiler" in out
    compiled, waiting = out.rpartition("\nSummary\n")[2].splitlines()
    assert compiled.split()[:2] == ["compiled", "FAILED"]
    assert waiting.endswith("1 passed, 1 skipped")


def test_a_passing_suite_exits_with_0(small_suite: Path) -> None:
    assert parts.main(["quiet"]) == 0
    (small_suite / "wrong").touch()
    assert parts.main(["check"]) == 1


def test_no_test_that_runs_alone_is_in_a_folder_that_is_spread() -> None:
    marks = re.compile(rf"mark\.({'|'.join((parts.QUIET, *parts.ONE_AT_A_TIME))})\b")
    files = [file for folder in parts.SPREAD for file in (parts.ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [str(file) for file in files if marks.search(file.read_text())] == []
