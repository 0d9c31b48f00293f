"""Runs a command in Linux namespaces of its own: other processes, files, and shared memory than its own do not exist for it.

The command's process 1 is a process of ours: when it ends, the kernel ends every process of the namespace, also those that
were detached. It ends itself when its parent does. A command runs as a user without rights: as root we choose another user
id, otherwise a user namespace gives our own id no rights outside.

Only the standard library besides, since this runs in forks. Names of flags are those of `mount(2)` and `clone(2)`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from llmariner.platform.jobs.local_processes.proxy_process import PROXY_PORT
from llmariner.platform.jobs.local_processes.socket_scope import enter_socket_scope
from llmariner.platform.jobs.local_processes.system_calls import forbid_system_calls

__all__ = ["Sandbox", "join", "spawn"]

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_RELATIME = 4096, 16384, 1 << 18, 1 << 21
_ST_RELATIME = 4096
# Flags of a mount that a remount in a user namespace must not drop; the same bits in statvfs and mount.
_LOCKED = 2 | 4 | 8 | 1024 | 2048
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_USER_ID = 1000
"""The command's user id within a user namespace."""
_MAX_PROCESSES = 1024
_MAX_OPEN_FILES = 4096
_MAX_TERMINALS = 64
_BEGIN_SECONDS = 10.0
"""How long a program that is to join a sandbox waits for its command."""


@dataclass(frozen=True)
class Sandbox:
    """`work`: the only folder that it may write, its `/job`; `root`: an empty folder to build its root directory at.

    `readable`: further folders that it may read, at the same paths, if they exist. `hidden`: folders that it must not see
    even where they are below those of the system. `user_id`: whom it runs as, where we are root. `processors`: the numbers
    of those that it may use. `shared_memory_bytes`: size of /dev/shm. `network`: whether it has the machine's network, else
    one of its own that leads nowhere. `terminals`: whether its programs may open terminals, which are its own.
    `control_groups`: the folders of those that its processes are in.
    """

    work: str
    root: str
    readable: tuple[str, ...]
    hidden: tuple[str, ...]
    user_id: int
    processors: tuple[int, ...]
    file_bytes: int
    shared_memory_bytes: int
    network: bool
    terminals: bool = False
    control_groups: tuple[str, ...] = ()


_libc = ctypes.CDLL(None, use_errno=True)


def spawn(
    sandbox: Sandbox,
    argv: Sequence[str],
    environments: Sequence[dict[str, str]],
    *,
    output: int,
    report: int,
    proxy: socket.socket | None = None,
) -> int:
    """Start a command, once with each environment; returns the process to wait for, which ends after all others.

    `proxy` gets the socket that a proxy listens on in the sandbox's network, where it has one. `output` is where it writes.
    `report` gets one JSON line: {"status": wait status} or {"error": why it did not start}. The status is that of the last
    process, or of the first that fails, which ends the others.
    """
    parent = os.getpid()
    if pid := os.fork():
        return pid
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _enter_control_groups(sandbox)
        _enter_namespaces(sandbox)
        _die_with_parent()
        if os.getppid() != parent:
            os._exit(1)
        _run_process_one(sandbox, argv, environments, output, report, proxy)
    except BaseException as error:
        _tell(report, error=f"{type(error).__name__}: {error}")
    os._exit(70)


def _run_process_one(
    sandbox: Sandbox,
    argv: Sequence[str],
    environments: Sequence[dict[str, str]],
    output: int,
    report: int,
    proxy: socket.socket | None,
) -> NoReturn:
    """Fork process 1 of the namespace and wait for it."""
    reader, writer = os.pipe()
    if pid := os.fork():
        os.close(reader)
        os.waitpid(pid, 0)
        os._exit(0)
    try:
        os.close(writer)
        _die_with_parent()
        if select.select([reader], [], [], 0)[0]:  # the parent has ended before the call above
            os._exit(1)
        _build_root(sandbox)
        if not sandbox.network:
            _start_loopback()
        if proxy is not None:
            with socket.create_server(("127.0.0.1", PROXY_PORT), backlog=64) as listener:
                socket.send_fds(proxy, [b"1"], [listener.fileno()])
            proxy.close()
        enter_socket_scope()
        commands = set()
        for environment in environments:
            if (command := os.fork()) == 0:
                streams = (os.open(os.devnull, os.O_RDONLY), output, output)
                _execute(sandbox, argv, environment, streams, report)
            commands.add(command)
        for number in (output, 0, 1, 2):
            with contextlib.suppress(OSError):
                os.close(number)
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid not in commands:
                continue
            commands.remove(pid)
            if status != 0 or not commands:
                _tell(report, status=status)
                os._exit(0)
    except BaseException as error:
        _tell(report, error=f"{type(error).__name__}: {error}")
    os._exit(70)


def join(
    sandbox: Sandbox,
    spawned: int,
    argv: Sequence[str],
    environment: dict[str, str],
    *,
    streams: tuple[int, int, int],
    end: int,
) -> int:
    """Start a program beside the command of a spawned process; returns the process to wait for, which is not in the sandbox.

    `streams` as in `_execute`. `end` is a socket: it gets the line that `report` gets in `spawn`, and when its other side
    is closed, the program ends.
    """
    if pid := os.fork():
        return pid
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _enter_control_groups(sandbox)
        _join_namespaces(sandbox, spawned)
        if program := os.fork():
            status = _wait_or_kill(program, end)
            _tell(end, status=status)
            os._exit(0)
        enter_socket_scope()
        _execute(sandbox, argv, environment, streams, end)
    except BaseException as error:
        _tell(end, error=f"{type(error).__name__}: {error}")
    os._exit(70)


def _join_namespaces(sandbox: Sandbox, spawned: int) -> None:
    """Enter the namespaces of a sandbox whose root directory is complete: its process 1 has begun the command."""
    deadline = time.monotonic() + _BEGIN_SECONDS
    while len(found := _children(spawned)) != 1 or not _children(found[0]):
        if time.monotonic() > deadline:
            raise TimeoutError("the job has not begun")
        time.sleep(0.02)
    descriptor = os.pidfd_open(found[0])
    # Else it may be another process that has got the number: that is no child of `spawned`.
    if _children(spawned) != found:
        raise ProcessLookupError("the job has ended")
    _check(_libc.setns(descriptor, _namespaces(sandbox)), "setns")


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_or_kill(pid: int, end: int) -> int:
    """The wait status of a program, which is killed with its session when the other side of `end` is closed."""
    if end in select.select([os.pidfd_open(pid), end], [], [])[0]:
        for kill in (os.killpg, os.kill):  # it may not have its session yet
            with contextlib.suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def _namespaces(sandbox: Sandbox) -> int:
    """The flags of the namespaces that a sandbox has of its own."""
    flags = _CLONE_NEWNS | _CLONE_NEWPID | _CLONE_NEWIPC | _CLONE_NEWUTS
    if os.geteuid() != 0:
        flags |= _CLONE_NEWUSER
    return flags if sandbox.network else flags | _CLONE_NEWNET


def _start_loopback() -> None:
    """Let processes of a new network reach each other at 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as each:
        fcntl.ioctl(each, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _enter_control_groups(sandbox: Sandbox) -> None:
    for folder in sandbox.control_groups:
        Path(folder, "cgroup.procs").write_text("0")  # this process


def _enter_namespaces(sandbox: Sandbox) -> None:
    user, group = os.geteuid(), os.getegid()
    _check(_libc.unshare(_namespaces(sandbox)), "unshare")
    if user != 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{_USER_ID} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{_USER_ID} {group} 1")


def _build_root(sandbox: Sandbox) -> None:
    """Make a root directory of read-only parts of the machine's and the work folder, and enter it."""
    _mount("", "/", flags=_MS_REC | _MS_PRIVATE)
    root = sandbox.root
    _mount("tmpfs", root, "tmpfs", options="size=4m,mode=755")
    for name in _SYSTEM:
        _copy_system_folder(f"/{name}", f"{root}/{name}")
    for hidden in sandbox.hidden:
        if os.path.isdir(root + hidden):
            _mount("tmpfs", root + hidden, "tmpfs", options="size=64k,mode=755")
    _make_devices(root, sandbox.shared_memory_bytes)
    if sandbox.terminals:
        _make_terminals(root)
    for name in ("job", "tmp", "proc", ".old"):
        os.mkdir(f"{root}/{name}")
    for target, source in (("/job", sandbox.work), ("/tmp", f"{sandbox.work}/tmp")):
        _mount(source, root + target, flags=_MS_BIND)
        _mount("", root + target, flags=_MS_BIND | _MS_REMOUNT | _MS_NOSUID | _MS_NODEV | _locked(root + target))
    for folder in sandbox.readable:  # after /tmp, where one may be
        if os.path.isdir(folder):
            os.makedirs(root + folder, exist_ok=True)
            _bind(folder, root + folder)
    _copy_resolver(root)
    for name in ("data", "scripts"):
        os.symlink(f"job/{name}", f"{root}/{name}")
    _mount("proc", f"{root}/proc", "proc", flags=_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _check(_libc.syscall(_SYS_PIVOT_ROOT[os.uname().machine], root.encode(), f"{root}/.old".encode()), "pivot_root")
    os.chdir("/")
    _check(_libc.umount2(b"/.old", _MNT_DETACH), "umount2")
    os.rmdir("/.old")
    _mount("", "/", flags=_MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, options="size=4m,mode=755")


def _copy_system_folder(source: str, target: str) -> None:
    if os.path.islink(source):
        os.symlink(os.readlink(source), target)
    elif os.path.isdir(source):
        os.mkdir(target)
        _bind(source, target)


def _make_devices(root: str, shared_memory_bytes: int) -> None:
    os.mkdir(f"{root}/dev")
    for name in _DEVICES:
        Path(f"{root}/dev/{name}").touch()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", flags=_MS_BIND)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{root}/dev/{name}")
    os.mkdir(f"{root}/dev/shm")
    options = f"size={shared_memory_bytes},mode=1777,nr_inodes=10000"
    _mount("tmpfs", f"{root}/dev/shm", "tmpfs", flags=_MS_NOSUID | _MS_NODEV, options=options)


def _make_terminals(root: str) -> None:
    """Give it pseudo-terminals of its own (`devpts`): those of the machine are not among them."""
    Path(f"{root}/dev/tty").touch()
    _mount("/dev/tty", f"{root}/dev/tty", flags=_MS_BIND)
    os.mkdir(f"{root}/dev/pts")
    options = f"newinstance,ptmxmode=0666,mode=0620,max={_MAX_TERMINALS}"
    _mount("devpts", f"{root}/dev/pts", "devpts", flags=_MS_NOSUID | _MS_NOEXEC, options=options)
    os.symlink("pts/ptmx", f"{root}/dev/ptmx")


def _copy_resolver(root: str) -> None:
    """Copy /etc/resolv.conf where it is a link to a folder that the command does not see, such as below /run."""
    real = os.path.realpath("/etc/resolv.conf")
    if os.path.isfile(real) and not os.path.exists(root + real):
        os.makedirs(os.path.dirname(root + real), exist_ok=True)
        Path(root + real).write_bytes(Path(real).read_bytes()[:65536])


def _bind(source: str, target: str) -> None:
    _mount(source, target, flags=_MS_BIND | _MS_REC)
    flags = _MS_BIND | _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV
    _mount("", target, flags=flags | _locked(target))


def _locked(path: str) -> int:
    found = os.statvfs(path).f_flag
    return (found & _LOCKED) | (_MS_RELATIME if found & _ST_RELATIME else 0)


def _execute(
    sandbox: Sandbox, argv: Sequence[str], environment: dict[str, str], streams: tuple[int, int, int], report: int
) -> NoReturn:
    """Give up all rights and become the command. `streams`: its standard input, output and error."""
    try:
        os.setsid()
        for target, source in enumerate(streams):
            os.dup2(source, target)
        os.set_inheritable(report, False)
        os.chdir("/job")
        for name, value in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, sandbox.file_bytes),
            (resource.RLIMIT_NPROC, _MAX_PROCESSES),
            (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        ):
            hard = resource.getrlimit(name)[1]
            limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(name, (limit, limit))
        os.nice(10)
        with contextlib.suppress(OSError):  # a processor may have gone offline
            os.sched_setaffinity(0, sandbox.processors)
        with contextlib.suppress(OSError):  # where the machine runs out of memory, the kernel ends the command first
            Path("/proc/self/oom_score_adj").write_text("1000")
        if os.geteuid() == 0:
            for output in streams[1:]:  # else the command can't open /dev/stdout
                os.fchown(output, sandbox.user_id, sandbox.user_id)
            os.setgroups([])
            os.setresgid(sandbox.user_id, sandbox.user_id, sandbox.user_id)
            os.setresuid(sandbox.user_id, sandbox.user_id, sandbox.user_id)
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
        forbid_system_calls()
        os.umask(0o022)
        for number in range(3, 256):
            if number != report:
                with contextlib.suppress(OSError):
                    os.close(number)
        os.execve(argv[0], list(argv), environment)
    except BaseException as error:
        _tell(report, error=f"{type(error).__name__}: {error}")
    os._exit(70)


def _die_with_parent() -> None:
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def _mount(source: str, target: str, kind: str = "", *, flags: int = 0, options: str = "") -> None:
    found = _libc.mount(
        source.encode() or None, target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    _check(found, f"mount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _tell(report: int, **fields: object) -> None:
    with contextlib.suppress(OSError):
        os.write(report, json.dumps(fields).encode() + b"\n")
