"""LoRA adapters in a local engine: no earlier adapter and none of another project is served under a reused name."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from llmariner.platform.serving import EngineModel, Phase

from .driver import ServingDriver, processes
from .scripted_engines import model, scripted_settings

BASE, TUNED = "base", "tuned"
# An engine that loads and unloads adapters on request, with vLLM's responses. `unload`: what its name says, "no" or "slow".
_ENGINE = """#!{python}
import http.server, json, pathlib, socketserver, sys, threading, time

loaded, script = {{}}, pathlib.Path({script!r})

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, json.dumps(loaded))

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name, unload = asked["lora_name"], script.read_text()
        if self.path == "/v1/load_lora_adapter":
            if name in loaded:
                return self.answer(400, f"The lora adapter '{{name}}' has already been loaded.")
            loaded[name] = asked["lora_path"]
        elif unload == "no":
            return self.answer(500, "it is in use")
        else:
            time.sleep(0.5 if unload == "slow" else 0)
            if loaded.pop(name, None) is None:
                return self.answer(404, "The lora adapter cannot be found.")
        self.answer(200, "done")

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass

    def address_string(self):
        return "local"

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

Server(sys.argv[sys.argv.index("--uds") + 1], Handler).serve_forever()
"""


def engine(folder: Path, unload: str) -> list[EngineModel]:
    """An environment with that engine; the base model, an adapter, and another that has its id after it."""
    (folder / "bin").mkdir()
    (folder / "unload").write_text(unload)
    program = folder / "bin/vllm"
    program.write_text(_ENGINE.format(python=sys.executable, script=str(folder / "unload")))
    program.chmod(0o755)
    (folder / "bin/python").symlink_to(sys.executable)
    base = replace(model(folder, BASE), created=1)
    first = replace(base, id=TUNED, base=BASE, folder="/weights/first", project="proj_a", created=2)
    return [base, first, replace(first, folder="/weights/second", project="proj_b", created=3)]


def loaded(driver: ServingDriver) -> dict[str, str]:
    return driver.ask(driver.status(BASE).endpoint, "/loaded")


def test_a_loaded_adapter_is_not_served_under_a_reused_name(tmp_path: Path) -> None:
    base, first, second = engine(tmp_path, "no")
    with processes(scripted_settings(tmp_path), base, first) as (driver, _):
        driver.ready(BASE)
        driver.ready(TUNED)
        driver.registered[TUNED] = second
        driver.wake(TUNED)
        status = driver.status(TUNED)
        assert loaded(driver) == {TUNED: "/weights/first"}
        assert (status.phase, status.endpoint) == (Phase.FAILED, None)
        assert "it is in use" in status.message
        (tmp_path / "unload").write_text("")
        driver.ready(TUNED)
        assert loaded(driver) == {TUNED: "/weights/second"}


def test_an_adapter_is_loaded_after_the_previous_one_is_unloaded(tmp_path: Path) -> None:
    base, first, second = engine(tmp_path, "slow")
    with processes(scripted_settings(tmp_path), base, first) as (driver, serving):
        driver.ready(BASE)
        driver.ready(TUNED)
        driver.registered[TUNED] = second

        async def at_once() -> None:
            await asyncio.gather(serving.remove(TUNED, first.folder), *(serving.wake(TUNED) for _ in range(3)))

        driver.run(at_once())
        driver.ready(TUNED)
        assert loaded(driver) == {TUNED: "/weights/second"}


def test_an_adapter_with_a_changed_id_is_reloaded(tmp_path: Path) -> None:
    base, first, second = engine(tmp_path, "")
    with processes(scripted_settings(tmp_path), base, first) as (driver, _):
        driver.ready(BASE)
        driver.ready(TUNED)
        driver.registered[f"{TUNED}@proj_b"] = replace(second, id=f"{TUNED}@proj_b")
        driver.wake(f"{TUNED}@proj_b")
        assert "another project's" in driver.status(f"{TUNED}@proj_b").message
        assert loaded(driver) == {TUNED: "/weights/first"}
        driver.registered[f"{TUNED}@proj_a"] = replace(driver.registered.pop(TUNED), id=f"{TUNED}@proj_a")
        driver.ready(f"{TUNED}@proj_a")
        assert list(driver.run(driver.serving.statuses())) == [BASE, f"{TUNED}@proj_a"]


def test_an_adapter_put_to_sleep_keeps_its_bases_engine_running(tmp_path: Path) -> None:
    base, first, _ = engine(tmp_path, "")
    with processes(scripted_settings(tmp_path), base, first) as (driver, serving):
        driver.sleep(TUNED)
        driver.ready(BASE)
        pid = serving._engines[BASE].pid
        assert driver.status(TUNED).phase is Phase.ASLEEP
        driver.ready(TUNED)
        for _ in range(2):
            driver.sleep(TUNED)
        assert loaded(driver) == {}
        assert (driver.status(TUNED).phase, driver.status(TUNED).endpoint) == (Phase.ASLEEP, None)
        assert TUNED not in driver.run(serving.statuses())
        driver.ready(TUNED)
        assert loaded(driver) == {TUNED: "/weights/first"}
        assert serving._engines[BASE].pid == pid
