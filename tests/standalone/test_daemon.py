"""The platform's process and its home folder: started twice, killed, stopped during its start, unusual folder names."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmariner.standalone import daemon
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.engine.packages import PACKAGED

LLMA = [sys.executable, "-c", "from llmariner.cli.main import main; import sys; sys.exit(main())"]
DAEMON = [sys.executable, "-m", "llmariner.standalone.daemon"]
Env = dict[str, str]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_of(home: Path, cache: Path) -> Env:
    """Of a platform whose cache looks filled: nothing is set up, no engine is started."""
    engines = EngineEnvironment(cache, engine_lock())
    engines.folder.mkdir(parents=True, exist_ok=True)
    (engines.folder / "complete").touch()
    for model in PACKAGED:
        model.folder(cache).mkdir(parents=True, exist_ok=True)
        (engines.folder / f"rehearsed-{model.key}").touch()
    own = {name: value for name, value in os.environ.items() if not name.startswith("LLMARINER_")}
    own |= {"LLMARINER_HOME": str(home), "LLMARINER_CACHE": str(cache), "LLMARINER_PORT": str(free_port())}
    # Each cache is another, so each platform would compile for minutes, also after its end.
    own |= {"LLMARINER_COMPILED": "off"}
    return own | {"LLMARINER_WARM_PARENT": "0", "XDG_CONFIG_HOME": str(home / "config")}


@pytest.fixture
def env(tmp_path: Path) -> Iterator[Env]:
    made = environment_of(tmp_path / "home", tmp_path / "cache")
    yield made
    llma(made, "down")


def llma(env: Env, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LLMA, *arguments], env=env, capture_output=True, text=True, timeout=120, check=False)


def until(fact: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def answers(env: Env) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{env['LLMARINER_PORT']}/health/live", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_a_taken_port_is_reported_before_the_setup(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        places = {"LLMARINER_HOME": str(tmp_path / "home"), "LLMARINER_CACHE": str(tmp_path / "cache")}
        done = llma({**os.environ, **places, "LLMARINER_PORT": str(port)}, "up")
    assert done.returncode == 5
    assert f"Port {port} of 127.0.0.1 can't be had" in done.stderr
    assert "LLMARINER_PORT" in done.stderr
    assert not (tmp_path / "cache").exists()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address_works(env: Env) -> None:
    env["LLMARINER_HOST"] = "::1"
    done = llma(env, "up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"http://[::1]:{env['LLMARINER_PORT']}/v1" in done.stdout
    listed = llma(env, "models", "list")
    assert listed.returncode == 0, listed.stdout + listed.stderr
    with socket.socket(socket.AF_INET6) as holder:
        holder.bind(("::1", 0))
        holder.listen()
        elsewhere = {"LLMARINER_HOME": env["LLMARINER_HOME"] + "-2", "LLMARINER_PORT": str(holder.getsockname()[1])}
        done = llma(env | elsewhere, "up")
    assert done.returncode == 5
    assert "of ::1 can't be had" in done.stderr


def test_a_read_only_home_is_reported_by_the_doctor(env: Env) -> None:
    # /proc can't be written by anybody, root included.
    said = llma(env | {"LLMARINER_HOME": "/proc/llmariner"}, "doctor")
    assert said.returncode != 0
    assert "/proc can't be written" in said.stdout
    assert "Set LLMARINER_HOME" in said.stdout


def test_an_invalid_address_is_reported(env: Env) -> None:
    done = llma(env | {"LLMARINER_HOST": "no such host"}, "up")
    assert done.returncode == 5
    assert "Set LLMARINER_HOST to one" in done.stderr


def test_a_full_disk_is_reported_before_the_setup(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(daemon, "MIN_FREE_BYTES", 1 << 60)
    with pytest.raises(daemon.StartFailed, match=r"MB are free at .*LLMARINER_HOME"):
        daemon.up(foreground=False)
    assert not Path(env["LLMARINER_HOME"]).exists()


def test_one_of_two_concurrent_starts_runs_and_both_report_it(env: Env) -> None:
    both = [
        subprocess.Popen([*LLMA, "up"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert answers(env)
    assert llma(env, "down").stdout == "Stopped.\n"
    assert not answers(env)


def test_a_second_platform_of_a_home_exits_at_once_with_a_reason(env: Env) -> None:
    assert llma(env, "up").returncode == 0
    second = subprocess.run(DAEMON, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert second.stderr.startswith("Another platform runs in ")
    assert "Traceback" not in second.stderr
    assert answers(env)


def test_a_process_that_reuses_the_pid_of_a_killed_platform_is_not_touched(env: Env) -> None:
    assert llma(env, "up").returncode == 0
    state = Path(env["LLMARINER_HOME"]) / "platform.json"
    os.kill(json.loads(state.read_text())["pid"], signal.SIGKILL)
    until(lambda: not answers(env))
    with subprocess.Popen(["sleep", "600"]) as other:
        state.write_text(json.dumps({"pid": other.pid}))
        (state.parent / "lock").write_text(str(other.pid))
        assert "not running" in llma(env, "down").stdout
        with subprocess.Popen(DAEMON, env=env, stderr=subprocess.DEVNULL) as starting:
            until(lambda: (state.parent / "lock").read_text() == str(starting.pid))
            assert llma(env, "down").stdout == "Stopped.\n", "it is ended while it starts, too"
        assert other.poll() is None
        other.kill()
    assert llma(env, "up").returncode == 0


@pytest.mark.parametrize("name", ["a b", "Grüße 日本", "50%20 #1?x=y&z", 'it\'s "quoted"'])
def test_a_home_may_have_any_name(name: str, tmp_path: Path) -> None:
    env = environment_of(tmp_path / name / "home", tmp_path / name / "cache")
    done = llma(env, "up")
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        assert answers(env)
        assert (tmp_path / name / "home" / "platform.db").is_file()
        key = (tmp_path / name / "home" / "admin.key").read_text()
        assert key in done.stdout
        assert llma(env, "models", "list").returncode == 0
    finally:
        llma(env, "down")


def test_no_proxy_is_used_for_this_machine(env: Env) -> None:
    env |= dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    env.pop("no_proxy", None)
    done = llma(env, "up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert llma(env, "models", "list").returncode == 0


@pytest.fixture
def short_home(env: Env) -> Iterator[Path]:
    """A home whose path leaves room for the paths of sockets below it; where it does not, they are elsewhere."""
    with tempfile.TemporaryDirectory(prefix="home-", dir="/tmp") as folder:
        env["LLMARINER_HOME"] = folder
        yield Path(folder)
        llma(env, "down")


def test_files_of_the_home_are_private(env: Env, short_home: Path) -> None:
    home = short_home
    assert llma(env, "up").returncode == 0
    assert home.stat().st_mode & 0o077 == 0
    for name in ("admin.key", "pepper", "service-secret", "platform.json"):
        assert (home / name).stat().st_mode & 0o077 == 0, name
    (folder,) = (home / "engines").iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    llma(env, "down")
    assert list((home / "engines").iterdir()) == []
