"""The launcher process, which runs in the engine environment: imports vLLM once and forks a child per engine.

Nearly all of vLLM's start on a CPU is importing Python, so a fork of a warm parent is ready in seconds where a plain
`vllm serve` takes half a minute. Run by the engine environment's interpreter, standard library and vLLM only:

    python launcher.py [--plain]

It speaks JSON, one object a line. In: {"op": "start", "model", "argv", "environment", "log"}, {"op": "stop", "pid",
"grace"}. Out: {"event": "ready", "warm", "seconds", "reason"}, {"event": "started", "model", "pid"}, {"event": "exited",
"pid", "status", "cpu_seconds"}. When its input ends (the platform has exited or crashed) it stops every engine and exits.
The platform on one machine and the standby program of the engine image (images/engine) speak to it.

It uses private names of vLLM; if one is missing it reports that and starts engines with `vllm serve`.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import sys
import tempfile
import time
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
_STOP_GRACE_SECONDS = 5.0

# Modules that an engine imports until it is ready. A missing one costs time in the child, not correctness.
_PRELOADED_MODULES = [
    "vllm.entrypoints.cli.main",
    "vllm.entrypoints.cli.serve",
    "vllm.entrypoints.openai.api_server",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.v1.engine.core",
    "vllm.v1.engine.async_llm",
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.executor.uniproc_executor",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.bert",
    "vllm.lora.worker_manager",
    "vllm.lora.request",
    "vllm.v1.structured_output.backend_xgrammar",
    "xgrammar",
    "transformers",
]
_MULTIPROCESSING_USERS = (
    "vllm.utils.system_utils",
    "vllm.v1.engine.utils",
    "vllm.v1.engine.coordinator",
    "vllm.v1.executor.multiproc_executor",
)


class Launcher:
    """Serves commands from the platform's pipe and manages child processes."""

    def __init__(self, out: int) -> None:
        self._out = out
        self._children: set[int] = set()
        self._deadlines: dict[int, float] = {}
        self._warm = False

    def warm_up(self) -> None:
        """Import vLLM and make its processes fork; on an error start engines without preloading, and report why."""
        started_at = time.monotonic()
        try:
            _preload_modules()
            _fork_instead_of_spawn()
            _inspect_models_in_process()
            gc.collect()
            gc.freeze()
            self._warm, reason = True, None
        except Exception as error:  # private names differ between versions of vLLM
            reason = f"{type(error).__name__}: {error}"
        self._send_event(event="ready", warm=self._warm, seconds=round(time.monotonic() - started_at, 2), reason=reason)

    def skip_warm_up(self) -> None:
        """Report ready without preloading."""
        self._send_event(event="ready", warm=False, seconds=0.0, reason="asked for")

    def run(self) -> None:
        """Serve commands until the input ends; then stop every engine."""
        wakeup_reader, wakeup_writer = os.pipe()
        os.set_blocking(wakeup_writer, False)
        signal.set_wakeup_fd(wakeup_writer)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        pending = b""
        try:
            while True:
                readable, _, _ = select.select([0, wakeup_reader], [], [], 0.5)
                if wakeup_reader in readable:
                    os.read(wakeup_reader, 4096)
                self._reap()
                if 0 in readable:
                    data = os.read(0, 65536)
                    if not data:
                        return
                    *lines, pending = (pending + data).split(b"\n")
                    for line in lines:
                        self._handle_command(json.loads(line))
        finally:
            self._stop_all()

    def _handle_command(self, command: dict[str, Any]) -> None:
        if command["op"] == "start":
            pid = self._fork(command)
            self._children.add(pid)
            self._send_event(event="started", model=command["model"], pid=pid)
        elif command["op"] == "stop" and command["pid"] in self._children:
            _kill_group(command["pid"], signal.SIGTERM)
            self._deadlines[command["pid"]] = time.monotonic() + command["grace"]

    def _fork(self, command: dict[str, Any]) -> int:
        # A stop right after the fork must find the child's process group, without the launcher's handlers in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        pid = os.fork()
        if pid:
            with contextlib.suppress(PermissionError, ProcessLookupError):  # the child has set it itself, or has exited
                os.setpgid(pid, pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            return pid
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            log = os.open(command["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            os.environ.update(command["environment"])
            tempfile.tempdir = None  # the parent cached its own when it imported vLLM
            self._run_engine(command["argv"])
        except BaseException as error:
            print(f"engine could not start: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(70)

    def _run_engine(self, argv: list[str]) -> NoReturn:
        if not self._warm:
            command = os.path.join(os.path.dirname(sys.executable), "vllm")
            os.execv(command, [command, *argv])
        from vllm.entrypoints.cli.main import main

        sys.argv = ["vllm", *argv]
        try:
            main()
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)
        os._exit(0)

    def _reap(self) -> None:
        while self._children:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                break
            # Processes that the engine left in its group, such as its core process, are killed too.
            _kill_group(pid, signal.SIGKILL)
            self._children.discard(pid)
            self._deadlines.pop(pid, None)
            seconds = used.ru_utime + used.ru_stime
            self._send_event(event="exited", pid=pid, status=os.waitstatus_to_exitcode(status), cpu_seconds=seconds)
        now = time.monotonic()
        for pid in [pid for pid, deadline in self._deadlines.items() if deadline < now]:
            _kill_group(pid, signal.SIGKILL)

    def _stop_all(self) -> None:
        for pid in self._children:
            _kill_group(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_GRACE_SECONDS
        while self._children and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.05)
        for pid in self._children:
            _kill_group(pid, signal.SIGKILL)

    def _send_event(self, **event: Any) -> None:
        # On a broken pipe the platform has exited, and the input ends as well.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._out, json.dumps(event).encode() + b"\n")


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _preload_modules() -> None:
    for name in _PRELOADED_MODULES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if name.startswith("vllm.entrypoints.cli"):
                raise
            print(f"not imported ahead: {name}: {error}", file=sys.stderr)


def _fork_instead_of_spawn() -> None:
    import multiprocessing

    def fork_context() -> Any:
        return multiprocessing.get_context("fork")

    for name in _MULTIPROCESSING_USERS:
        module = importlib.import_module(name)
        if not hasattr(module, "get_mp_context"):
            raise RuntimeError(f"{name} has no get_mp_context")
        setattr(module, "get_mp_context", fork_context)  # noqa: B010 - a module's attribute, unknown to type checkers


def _inspect_models_in_process() -> None:
    """Inspect model classes in this process.

    vLLM does so in a subprocess that imports everything again and caches the result in a folder that a new container
    lacks. Here all is imported, and no GPU could be initialized by it.
    """
    registry = importlib.import_module("vllm.model_executor.models.registry")
    if hasattr(registry, "_run_in_subprocess"):
        setattr(registry, "_run_in_subprocess", lambda inspect: inspect())  # noqa: B010 - as above


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def main() -> None:
    """Run the launcher. The protocol has a descriptor of its own, since imports may print to standard output."""
    out = os.dup(1)
    os.dup2(2, 1)
    # At every fork: an engine's core process must not outlive a killed engine, nor an engine a killed launcher.
    os.register_at_fork(after_in_child=_die_with_parent)
    launcher = Launcher(out)
    if "--plain" in sys.argv[1:]:
        launcher.skip_warm_up()
    else:
        launcher.warm_up()
    launcher.run()


if __name__ == "__main__":
    main()
