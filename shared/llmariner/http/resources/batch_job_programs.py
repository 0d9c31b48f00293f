"""Programs that are started in batch jobs, as a stream of server-sent events.

The events are `{"type": "output", "stream": "stdout" | "stderr", "data": Base64}`, and at the end
`{"type": "exit", "exit_code": number}`, with null where the job ended before the program did. One `{"type": "error",
"message": text}` says why a program was ended that the caller may not run any more.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from llmariner.errors import PlatformError, RateLimited
from llmariner.platform.jobs import ExecOutput, Execution

__all__ = ["ProgramStreams"]

_MAX_PROGRAMS = 16
"""In one process: each holds a connection and a thread. An organization has half of them at most."""
_READ_SECONDS = 1.0
_HEARTBEAT_SECONDS = 10.0
"""How often a comment is sent while there is no output, and the caller must still be allowed to."""
_MAX_SECONDS = 3500.0
"""Less than the time limit of the function."""


class ProgramStreams:
    """The programs that callers of one process run. Each has a thread to read in, apart from those of other requests."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_MAX_PROGRAMS, thread_name_prefix="exec")
        self._places = _Places(_MAX_PROGRAMS)

    async def start(
        self, begin: Callable[[], Execution], allowed: Callable[[], None], organization_id: str
    ) -> AsyncIterator[bytes]:
        """Start a program; returns its events. Raises what `begin` raises, and RateLimited for too many.

        The stream ends, and the program with it, when `allowed` raises or the caller leaves.
        """
        release = self._places.take(organization_id)
        starting = self._threads.submit(_Program, begin, release, self._threads)
        try:
            program = await asyncio.shield(asyncio.wrap_future(starting))
        except asyncio.CancelledError:
            starting.add_done_callback(_close_unwanted)
            raise
        events = _events(program, allowed, self._threads)
        # A response that is never sent closes no generator.
        weakref.finalize(events, program.close).atexit = False
        return events


class _Places:
    """Places for programs, of which an organization never has all. Thread-safe."""

    def __init__(self, places: int) -> None:
        self._limit, self._share = places, max(places // 2, 1)
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    def take(self, organization_id: str) -> Callable[[], None]:
        """Take a place; the result releases it. Raises RateLimited."""
        with self._lock:
            taken, of_all = self._taken[organization_id], self._taken.total()
            if taken >= self._share or of_all >= self._limit:
                whose = f"{taken} programs of your organization" if taken >= self._share else f"{of_all} programs"
                raise RateLimited(
                    f"{whose} run in jobs here already. Try again when one has ended.", headers={"retry-after": "5"}
                )
            self._taken[organization_id] += 1
        return partial(self._release, organization_id)

    def _release(self, organization_id: str) -> None:
        with self._lock:
            self._taken[organization_id] -= 1
            if not self._taken[organization_id]:
                del self._taken[organization_id]


class _Program:
    """A started program. Its reader may be canceled, and still reads then. `release`: called once, when it has ended."""

    def __init__(
        self, begin: Callable[[], Execution], release: Callable[[], None], threads: ThreadPoolExecutor
    ) -> None:
        self._release = release
        self._threads = threads
        self._lock = threading.Lock()
        self._is_closing = False
        try:
            self.execution = begin()
        except BaseException:
            release()
            raise

    def read(self) -> ExecOutput | None:
        with self._lock:
            return self.execution.read(_READ_SECONDS)

    def close(self) -> None:
        """Close it soon, in a thread of its own. Idempotent."""
        if not self._is_closing:
            self._is_closing = True
            self._threads.submit(self._close)

    def _close(self) -> None:
        with self._lock:
            self.execution.close()
        self._release()


def _close_unwanted(starting: Future[_Program]) -> None:
    """End a program whose caller left while it was started."""
    if starting.exception() is None:
        starting.result().close()


async def _events(
    program: _Program, allowed: Callable[[], None], threads: ThreadPoolExecutor
) -> AsyncGenerator[bytes, None]:
    loop = asyncio.get_running_loop()
    began = checked = time.monotonic()
    try:
        while (output := await loop.run_in_executor(threads, program.read)) is not None:
            if output.data:
                yield _event(type="output", stream=output.stream, data=base64.b64encode(output.data).decode())
            if (now := time.monotonic()) - began > _MAX_SECONDS:
                return
            if now - checked > _HEARTBEAT_SECONDS:
                checked = now
                await loop.run_in_executor(threads, allowed)
                yield b": running\n\n"
        yield _event(type="exit", exit_code=program.execution.exit_code)
    except PlatformError as error:
        yield _event(type="error", message=error.message)
    finally:
        program.close()


def _event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"
