"""A token path function with a remote control plane: what works while the control plane is unavailable."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmariner.gateway.control_plane.port import Changes
from llmariner.gateway.state import Gateway
from llmariner.standalone.platform import checkout_root
from llmariner.tenancy.keys.store import NewKey
from llmariner.tenancy.roles.scopes import OWNER_SCOPES

from .caller import Answer, Caller
from .running_platform import EngineProcess, Platform, eventually, free_port, listens

PATH = "/v1/chat/completions"


@contextmanager
def booted(function: str, port: int, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A function as its image runs it."""
    command = [sys.executable, "-m", "llmariner.boot", str(checkout_root() / "functions" / function)]
    served = {**os.environ, **environment, "PORT": str(port), "HOST": "127.0.0.1"}
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=served, stdout=output, stderr=output)
    try:
        eventually(lambda: process.poll() is not None or listens(port), seconds=60, what="the function's start")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.kill()
        process.wait(10)


class Functions:
    """The two functions' settings, and the database seen from outside."""

    def __init__(self, folder: Path, database: Path, engine_port: int) -> None:
        self.home = Platform(folder, {}, database)
        self.home.model("static")
        self.log = folder / "functions.log"
        self.control_port, self.port = free_port(), free_port()
        serving = {"static": f"http://127.0.0.1:{engine_port}"}
        self.control = {
            **self.home.environment,
            "LLMARINER_SERVING": "static",
            "LLMARINER_SERVING_STATIC": json.dumps(serving),
        }
        secrets = ("LLMARINER_PEPPER", "LLMARINER_SERVICE_SECRET")
        self.gateway = {name: self.home.environment[name] for name in secrets}
        self.gateway["LLMARINER_CONTROL_URL"] = f"http://127.0.0.1:{self.control_port}"
        self.key_id, caller = self.home.key("known")
        self.known = Caller(self.port, caller.secret)
        self.unknown = Caller(self.port, self.home.key("unknown")[1].secret)
        self.limited = Caller(self.port, self.home.key("limited", limited=True)[1].secret)


@pytest.fixture
def functions(tmp_path: Path, database: Path) -> Iterator[Functions]:
    engine = EngineProcess.start("--model", "static", "--tokens", "3")
    try:
        found = Functions(tmp_path, database, engine.port)
        with booted("chat_completions", found.port, found.gateway, found.log):
            yield found
        found.home.context.database.close()
    finally:
        engine.kill()


@pytest.mark.quiet
def test_without_the_control_plane_cached_keys_work_and_nothing_is_lost(functions: Functions) -> None:
    known, unknown = functions.known, functions.unknown
    with booted("internal_gateway", functions.control_port, functions.control, functions.log):
        assert asyncio.run(known.chat("static")).status == 200

    async def alone() -> None:
        brief = {"prefer": "wait=0"}
        unauthorized = Caller(functions.port, "sk-never-made")
        patient = asyncio.create_task(unknown.chat("static"))
        served, *refused = await asyncio.gather(
            known.chat("static"),
            functions.limited.chat("static", headers=brief),
            unauthorized.chat("static", headers=brief),
        )
        assert served.status == 200
        for answer in refused:
            assert (answer.status, answer.error()["code"]) == (503, "service_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        assert functions.home.context.ledger.request(served.headers["x-request-id"]) is None
        assert not patient.done()
        with booted("internal_gateway", functions.control_port, functions.control, functions.log):
            # Its wait is not over, so it is answered as soon as the control plane is there.
            assert (await patient).status == 200
            row = await asyncio.to_thread(functions.home.row, served.headers["x-request-id"])
            assert (row["outcome"], row["completion_tokens"]) == ("succeeded", 3)
            await asyncio.to_thread(revoked_within, functions.home, functions.key_id, known)

    asyncio.run(alone())


@pytest.mark.quiet
def test_a_hanging_control_plane_delays_no_cached_key(functions: Functions) -> None:
    known = functions.known
    with booted("internal_gateway", functions.control_port, functions.control, functions.log) as control:
        assert asyncio.run(known.chat("static")).status == 200
        control.send_signal(signal.SIGSTOP)
        try:
            took = []
            for _ in range(6):  # for longer than what was heard counts as fresh
                began = time.monotonic()
                assert asyncio.run(known.chat("static")).status == 200
                took.append(time.monotonic() - began)
                time.sleep(1)
        finally:
            control.send_signal(signal.SIGCONT)
        assert max(took) < 2, took
        assert sorted(took)[3] < 0.5, took


@pytest.mark.quiet
def test_after_a_pause_a_request_waits_for_revocations(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmariner.gateway.state._POLL_SECONDS", 60.0)  # nobody asks between the two requests
    monkeypatch.setattr("llmariner.gateway.state._RECENT_POLL_SECONDS", 0.5)
    monkeypatch.setattr("llmariner.gateway.state._STALE_SECONDS", 0.5)
    serving = {"LLMARINER_SERVING": "static", "LLMARINER_SERVING_STATIC": "{}"}
    home = Platform(tmp_path, serving, database)
    key_id, caller = home.key("revoked-in-a-pause")
    head = {b"authorization": f"Bearer {caller.secret}".encode()}

    async def scenario() -> tuple[bool, bool]:
        control = home.context.in_process_control_plane
        gateway = Gateway(control, home.context.gateway.settings, home.context.secrets.pepper)
        await gateway.refresh()
        await gateway.key_cache.authenticate(head, "api.inference.write")
        before = gateway.key_cache.cached(head, "api.inference.write") is not None
        home.context.keys.revoke(home.owner, key_id)
        await asyncio.sleep(1.1)
        changes = control.changes_since

        async def slowly(cursor: str, rules: int) -> Changes:
            await asyncio.sleep(1.5)  # longer than a request waits while others ask
            return await changes(cursor, rules)

        monkeypatch.setattr(control, "changes_since", slowly)
        await gateway.refresh()
        after = gateway.key_cache.cached(head, "api.inference.write") is not None
        await gateway.close()
        return before, after

    assert asyncio.run(scenario()) == (True, False)
    home.context.database.close()


def test_a_separate_function_wakes_models_through_the_control_plane(platform: Platform, tmp_path: Path) -> None:
    name = platform.model("far-away", "--ready-after", "1", "--tokens", "3")
    secrets = ("LLMARINER_PEPPER", "LLMARINER_SERVICE_SECRET", "LLMARINER_HEARTBEAT_SECONDS")
    environment = {variable: platform.environment[variable] for variable in secrets}
    environment["LLMARINER_CONTROL_URL"] = f"http://127.0.0.1:{platform.port}"
    caller = Caller(free_port(), platform.caller.secret)

    async def scenario() -> tuple[Answer, Answer]:
        reported = await caller.chat(name, headers={"prefer": "wait=0"})
        return reported, await (await caller.stream(name)).read()

    with booted("chat_completions", caller.port, environment, tmp_path / "log"):
        reported, answer = asyncio.run(scenario())
        row = platform.row(answer.headers["x-request-id"])
        unknown = asyncio.run(caller.chat("nowhere"))
    assert (reported.status, reported.error()["code"]) == (503, "model_not_ready")
    assert "starting" in {comment["phase"] for comment in answer.comments()}
    assert answer.events()[-1] == "[DONE]"
    assert len(platform.engines(name)) == 1
    assert (row["outcome"], row["completion_tokens"]) == ("succeeded", 3)
    assert (unknown.status, unknown.error()["code"]) == (404, "model_not_found")


def revoked_within(home: Platform, key_id: str, caller: Caller) -> None:
    home.context.keys.revoke(home.owner, key_id)
    took = eventually(lambda: asyncio.run(caller.chat("static")).status == 401, what="the refusal of a revoked key")
    print(f"\nrefused {took:.1f} s after the revocation")
    assert took < 5


@pytest.mark.quiet
def test_a_revoked_key_is_rejected_within_five_seconds(platform: Platform) -> None:
    platform.model("static")
    key_id, caller = platform.key("short-lived")
    assert asyncio.run(caller.chat("static")).status == 200
    revoked_within(platform, key_id, caller)


@pytest.mark.quiet
def test_a_rotated_secret_is_rejected_within_five_seconds_and_the_new_one_accepted_at_once(platform: Platform) -> None:
    key_id, caller = platform.key("rotated")
    model = platform.model("for-rotation")
    assert asyncio.run(caller.chat(model)).status == 200
    _, secret = platform.context.keys.rotate(platform.owner, key_id, overlap=0)
    assert asyncio.run(Caller(platform.port, secret).chat(model)).status == 200
    assert eventually(lambda: asyncio.run(caller.chat(model)).status == 401, what="the refusal") < 5


@pytest.mark.quiet
def test_an_expired_key_is_rejected_despite_caches(platform: Platform) -> None:
    model = platform.model("for-expiry")
    new = NewKey(name="two-seconds", scopes=OWNER_SCOPES, expires_in=3)
    _, secret = platform.context.keys.create(platform.owner, new)
    caller = Caller(platform.port, secret)
    began = time.monotonic()
    assert asyncio.run(caller.chat(model, headers={"prefer": "wait=30"})).status == 200
    eventually(lambda: asyncio.run(caller.chat(model)).status == 401, what="the refusal")
    assert time.monotonic() - began < 4


def test_a_key_without_the_scope_is_rejected(platform: Platform) -> None:
    new = NewKey(name="reader", scopes=frozenset({"api.model.read"}))
    _, secret = platform.context.keys.create(platform.owner, new)
    answer = asyncio.run(Caller(platform.port, secret).chat("for-expiry"))
    assert (answer.status, answer.error()["code"]) == (403, "insufficient_permissions")


def test_the_control_plane_rejects_unsigned_calls(functions: Functions) -> None:
    with booted("internal_gateway", functions.control_port, functions.control, functions.log):
        unauthorized = Caller(functions.control_port, functions.unknown.secret)
        answer = asyncio.run(unauthorized.call("/internal/gateway/key", {"digest": "x"}))
    assert (answer.status, answer.error()["code"]) == (401, "invalid_api_key")
