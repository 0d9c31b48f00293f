"""The standalone platform's home folder, working directory and environment."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from llmariner.models.tables import models
from llmariner.platform.serving import log_files
from llmariner.platform.serving.local_processes.sockets import EngineSockets, remove_stale_folders
from llmariner.settings import StandaloneSettings
from llmariner.standalone import daemon, doctor
from llmariner.standalone import platform as standalone_platform
from llmariner.standalone.engine.environment import EngineEnvironment, engine_lock
from llmariner.standalone.engine.packages import PACKAGED
from llmariner.standalone.platform import HomeFolder, StandalonePlatform

from .test_daemon import LLMA, Env, environment_of, llma


@pytest.fixture
def env(tmp_path: Path) -> Env:
    return environment_of(tmp_path / "home", tmp_path / "cache")


def test_no_module_of_the_working_directory_is_imported(env: Env, tmp_path: Path) -> None:
    hostile = tmp_path / "repository"
    hostile.mkdir()
    for name in ("uvloop", "yaml", "llmariner", "json"):
        (hostile / f"{name}.py").write_text(f"raise SystemExit('{name} of this folder was run')\n")
    command = [str(Path(LLMA[0]).with_name("llma")), "up"]
    done = subprocess.run(command, env=env, cwd=hostile, capture_output=True, text=True, timeout=120, check=False)
    llma(env, "down")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_shared_folder_is_rejected_as_a_home_and_keeps_its_mode(env: Env, tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    done = llma(env | {"LLMARINER_HOME": str(shared)}, "up")
    assert done.returncode == 5
    assert "a folder for everybody" in done.stderr
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777
    assert list(shared.iterdir()) == []


def test_an_existing_folder_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "home").chmod(0o777)
    daemon._check_home(tmp_path / "home")
    HomeFolder(tmp_path / "home").create()
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_an_unusable_home_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(daemon.StartFailed, match=r"Not a directory. Set LLMARINER_HOME to another"):
        daemon._check_home(tmp_path / "file" / "home")


def test_only_the_platforms_sockets_are_removed_from_an_engine_folder(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/data").touch()
    sockets = EngineSockets(tmp_path)
    sockets.new().touch()
    remove_stale_folders(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["precious", "data"]


def test_standalone_events_and_requests_go_to_no_cluster(env: Env, tmp_path: Path) -> None:
    """A user who also works on a cluster may have its addresses in the environment."""
    cluster = {"LLMARINER_BROKER_URL": "http://127.0.0.1:9", "LLMARINER_CONTROL_URL": "http://127.0.0.1:9"}
    given = HomeFolder(tmp_path).environment(env | cluster)
    assert [given[name] for name in cluster] == ["", ""]
    assert llma(env | cluster, "up").returncode == 0
    key = (tmp_path / "home/admin.key").read_text()
    base, headers = f"http://127.0.0.1:{env['LLMARINER_PORT']}/v1/models", {"authorization": f"Bearer {key}"}
    body = {"id": "org/gone", "source_repository": "LOCAL", "model_file_location": "/no/such/folder"}
    headers["content-type"] = "application/json"
    with urllib.request.urlopen(urllib.request.Request(base, json.dumps(body).encode(), headers), timeout=20):
        pass
    deadline, status = time.monotonic() + 30, ""
    while status != "MODEL_LOADING_STATUS_FAILED":
        assert time.monotonic() < deadline, status
        question = urllib.request.Request(f"{base}/org/gone?include_loading_model=true", headers=headers)
        with urllib.request.urlopen(question, timeout=20) as answer:
            status = json.load(answer)["loading_status"]
        time.sleep(0.1)
    llma(env, "down")


def test_a_hanging_platform_is_reported_and_terminated(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    assert llma(env, "up").returncode == 0
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(daemon, "_RESPONSE_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(daemon, "_STOP_SECONDS", 0.5)
    pid = daemon.running_pid(StandaloneSettings.load(env))
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(daemon.StartFailed, match=rf"process {pid}\) runs but does not answer.*llma down"):
        daemon.up(foreground=False)
    # A platform that does not respond gets no check of its models, which would take minutes.
    names = [check.name for check in doctor.checks() if not check.ok]
    assert names[-1] == "health"
    assert daemon.down()
    assert daemon.running_pid(StandaloneSettings.load(env)) is None


def made(env: Env) -> StandalonePlatform:
    settings = StandaloneSettings.load(env)
    return StandalonePlatform(settings, env, EngineEnvironment(settings.cache, engine_lock()))


def test_packaged_models_are_approved_unless_their_arguments_were_changed(env: Env) -> None:
    home, name = made(env), PACKAGED[0].id
    assert (home.prepare() or "").startswith("sk-")
    registry, row = home.context.registry, update(models).where(models.c.id == name)
    assert (registry.get(name).approved, registry.get(name).loaded) == (True, True)
    with home.context.database.write() as session:
        session.run(row.values(approved=False))
    assert home.prepare() is None
    assert registry.get(name).approved, "a release before, which approved nothing, made it"
    chosen = replace(registry.get(name).config, extra_args=("--middleware=evil.Tap",))
    with home.context.database.write() as session:
        session.run(row.values(approved=False, config=json.dumps(chosen.to_api())))
    home.prepare()
    assert not registry.get(name).approved
    home.context.database.close()


def test_each_tick_rotates_the_logs(env: Env, monkeypatch: pytest.MonkeyPatch) -> None:
    home = made(env)
    home.prepare()
    monkeypatch.setattr(standalone_platform, "rotate", lambda log: log_files.rotate(log, 10))
    for name in ("platform.log", "launcher.log"):
        (home.folder.logs / name).write_text("x" * 11)
    home._write_tick()
    assert {file.name: file.stat().st_size for file in home.folder.logs.iterdir()} == {
        "launcher.log": 0,
        "launcher.log.1": 10,
        "platform.log": 0,
        "platform.log.1": 10,
    }
    home.context.database.close()


def test_leftovers_of_an_earlier_platform_are_terminated_and_closed(env: Env) -> None:
    home = made(env)
    home.prepare()
    counts = {"prompt_tokens": 1, "completion_tokens": 1, "cached_tokens": 0, "sequence": 0, "kind": "admitted"}
    whose = {"organization_id": "org_1", "project_id": "proj_1", "user_id": "user_1", "key_id": "key_1"}
    said = {"request_id": "req_cut_off", "model": "m", "route": "r", "at": time.time(), "admitted_at": time.time()}
    home.context.ledger.record([{**counts, **whose, **said}])
    home.prepare()
    assert (home.context.ledger.request("req_cut_off") or {})["outcome"] == "interrupted"

    async def start(left: subprocess.Popen[bytes]) -> None:
        await home.start()
        assert left.wait(20) == -signal.SIGKILL
        await home.stop()

    mark = {"LLMARINER_ENGINES_OF": str(home.folder.logs)}
    with subprocess.Popen(["sleep", "60"], env=os.environ | mark) as left:
        asyncio.run(start(left))
