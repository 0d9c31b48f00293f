"""The load: a process of its own, so that what it costs is never counted as the cost of what it measures.

Raw sockets and a C parser, requests built once: about 20 µs a request, so that one core of load can fill any
proxy but nginx. A closed loop: every connection sends its next request when the last one is answered. Bounded in
time and in count. It takes its plan as one JSON argument, warms the path up, says `warm`, waits for a line on
standard input and answers with one line of JSON. Run by its path; the harness never imports it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
import uvloop

ERRORS_TO_GIVE_UP = 20


@dataclass(frozen=True)
class Plan:
    """What to send, where, and when to stop."""

    port: int
    request: bytes
    stream: bool
    connections: int
    warm: int
    seconds: float
    count: int

    @classmethod
    def load(cls, text: str) -> Plan:
        found = json.loads(text)
        body = json.dumps(found.pop("body")).encode()
        headers = {"host": "127.0.0.1", "content-type": "application/json", **found.pop("headers")}
        headers["content-length"] = str(len(body))
        lines = [f"POST {found.pop('path')} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        stream = bool(json.loads(body).get("stream"))
        return cls(request="\r\n".join([*lines, "", ""]).encode() + body, stream=stream, **found)


@dataclass
class Tally:
    """What one phase saw; times in seconds."""

    deadline: float
    left: int
    latencies: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def wants_more(self) -> bool:
        return self.left > 0 and time.perf_counter() < self.deadline and len(self.errors) < ERRORS_TO_GIVE_UP


class Caller(asyncio.Protocol):
    """One keep-alive connection that asks again and again."""

    transport: asyncio.Transport

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tally = Tally(0, 0)
        self.over: asyncio.Future[None] | None = None
        self.sent = self.first = 0.0
        self.tail = b""

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, "127.0.0.1", self.plan.port)

    async def run(self, tally: Tally) -> None:
        """Ask until the tally has enough; reconnects when the other side closes between two requests."""
        self.tally = tally
        while tally.wants_more():
            if self.transport.is_closing():
                await self.connect()
            self.over = asyncio.get_running_loop().create_future()
            self.ask()
            await self.over

    def ask(self) -> None:
        self.tally.left -= 1
        self.first = 0.0
        self.parser = httptools.HttpResponseParser(self)
        self.sent = time.perf_counter()
        self.transport.write(self.plan.request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self.first:
            self.first = time.perf_counter()
        self.tail = body

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status != 200 or (self.plan.stream and b"[DONE]" not in self.tail):
            self.tally.errors.append(f"{status} {self.tail[:300].decode(errors='replace')}")
        else:
            self.tally.latencies.append(time.perf_counter() - self.sent)
            self.tally.firsts.append(self.first - self.sent)
        if self.tally.wants_more() and self.parser.should_keep_alive():
            self.ask()
        else:
            if not self.parser.should_keep_alive():
                self.transport.close()
            self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.over is not None and not self.over.done():
            self.tally.errors.append(f"connection lost in mid answer: {exc}")
            self._rest()

    def _rest(self) -> None:
        if self.over is not None and not self.over.done():
            self.over.set_result(None)


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds at the quantiles that people ask for."""
    ordered = sorted(seconds)
    return {f"p{q}": 1000 * ordered[min(len(ordered) - 1, len(ordered) * q // 100)] for q in (50, 95, 99)}


async def phase(callers: list[Caller], seconds: float, count: int) -> tuple[Tally, float]:
    begun = time.perf_counter()
    tally = Tally(begun + seconds, count)
    await asyncio.gather(*(caller.run(tally) for caller in callers))
    return tally, time.perf_counter() - begun


async def main(plan: Plan) -> dict[str, Any]:
    callers = [Caller(plan) for _ in range(plan.connections)]
    await asyncio.gather(*(caller.connect() for caller in callers))
    warmed, _ = await phase(callers, 20, plan.warm)
    if warmed.errors:
        return {"completed": 0, "errors": warmed.errors[:3]}
    print("warm", flush=True)
    sys.stdin.readline()
    tally, wall = await phase(callers, plan.seconds, plan.count)
    found: dict[str, Any] = {"completed": len(tally.latencies), "errors": tally.errors[:3], "seconds": wall}
    if tally.latencies:
        found |= {"latency_ms": quantiles(tally.latencies), "first_ms": quantiles(tally.firsts)}
    return found


if __name__ == "__main__":
    print(json.dumps(uvloop.run(main(Plan.load(sys.argv[1])))))
