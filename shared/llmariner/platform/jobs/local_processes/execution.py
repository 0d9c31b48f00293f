"""Programs that are started in a running job: the platform asks the job's supervisor for them, which starts them.

A request is one message on the socket that is the supervisor's standard input: a JSON list of arguments, with descriptors
for standard input, output, error, and a socket. On that socket comes one JSON line at the end, as of `sandbox.spawn`; when
the platform closes it, the program ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
from collections.abc import Callable, Sequence

from llmariner.platform.jobs import ExecOutput

__all__ = ["MAX_REQUEST_BYTES", "ProcessExecution", "Request", "read_request"]

MAX_REQUEST_BYTES = 128 * 1024
"""Of one message; the buffer of a socket has more."""
_READ_BYTES = 64 * 1024
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_DESCRIPTORS = 4


class Request:
    """What a supervisor was asked to start. `streams`: of standard input, output and error."""

    def __init__(self, argv: Sequence[str], descriptors: Sequence[int]) -> None:
        self.argv = argv
        self.streams = (descriptors[0], descriptors[1], descriptors[2])
        self.end = descriptors[3]

    def close(self) -> None:
        """Close the descriptors, which the started program has too."""
        for number in (*self.streams, self.end):
            os.close(number)


def read_request(control: socket.socket) -> bytes | Request | None:
    """The next message to a supervisor: a request, the bytes of another one, empty at the end; None for one that is lost."""
    data, descriptors, _, _ = socket.recv_fds(control, MAX_REQUEST_BYTES, _DESCRIPTORS)
    if len(descriptors) == _DESCRIPTORS:
        return Request(json.loads(data), descriptors)
    for number in descriptors:  # the process had no room for all
        os.close(number)
    return None if data.startswith(b"[") else data


class ProcessExecution:
    """See `platform.jobs.Execution`. `on_close` is called once."""

    def __init__(self, control: socket.socket, argv: Sequence[str], stdin: bytes, on_close: Callable[[], None]) -> None:
        """Raises OSError where the supervisor takes no requests any more."""
        self._on_close = on_close
        self._exit_code: int | None = None
        with contextlib.ExitStack() as kept, contextlib.ExitStack() as given:
            file = _sealed_file(stdin)
            given.callback(os.close, file)
            self._end, end = socket.socketpair()
            kept.enter_context(self._end)
            given.enter_context(end)
            self._streams: dict[int, str] = {}
            writers = []
            for name in ("stdout", "stderr"):
                reader, writer = os.pipe()
                kept.callback(os.close, reader)
                given.callback(os.close, writer)
                self._streams[reader] = name
                writers.append(writer)
            message = json.dumps(list(argv)).encode()
            socket.send_fds(control, [message], [file, *writers, end.fileno()], socket.MSG_DONTWAIT)
            kept.pop_all()

    @property
    def exit_code(self) -> int | None:
        """See the port."""
        return self._exit_code

    def read(self, seconds: float) -> ExecOutput | None:
        """See the port."""
        if self._end.fileno() < 0:
            return self._left()
        poll = select.poll()
        for number in (*self._streams, self._end.fileno()):
            poll.register(number, select.POLLIN)
        ready = [number for number, _ in poll.poll(seconds * 1000)]
        for number, name in list(self._streams.items()):
            if number in ready:
                if data := os.read(number, _READ_BYTES):
                    return ExecOutput(name, data)
                self._close_stream(number)
        if self._end.fileno() not in ready:
            return ExecOutput("stdout", b"")
        self._note_end()
        return self._left()

    def close(self) -> None:
        """See the port."""
        self._end.close()
        for number in list(self._streams):
            self._close_stream(number)
        on_close, self._on_close = self._on_close, lambda: None
        on_close()

    def _left(self) -> ExecOutput | None:
        """What an ended program wrote, without waiting: what it began may still hold its output."""
        for number, name in list(self._streams.items()):
            os.set_blocking(number, False)
            with contextlib.suppress(BlockingIOError):
                if data := os.read(number, _READ_BYTES):
                    return ExecOutput(name, data)
            self._close_stream(number)
        return None

    def _note_end(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            status = json.loads(self._end.recv(_READ_BYTES))["status"]
            self._exit_code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        self._end.close()

    def _close_stream(self, number: int) -> None:
        del self._streams[number]
        os.close(number)


def _sealed_file(content: bytes) -> int:
    """A file of memory with this content, which nobody can change: a job must not store anything in it."""
    number = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, number)
        view = memoryview(content)
        while view:
            view = view[os.write(number, view) :]
        os.lseek(number, 0, os.SEEK_SET)
        fcntl.fcntl(number, fcntl.F_ADD_SEALS, _SEALS)
        stack.pop_all()
    return number
