"""The users that listen on a local TCP port, from /proc/net/tcp (proc_pid_net(5)).

On a shared machine another user can bind the platform's port first and receive the requests to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from llmariner.cli.support.errors import CommandError, ExitCode

__all__ = ["is_own_listener", "listening_uids"]

_LISTENING = "0A"


def listening_uids(port: int, tables: Path = Path("/proc/net")) -> frozenset[int] | None:
    """The user ids of the listeners on a TCP port of any address; None where the system does not provide them."""
    found: list[int] = []
    for name in ("tcp", "tcp6"):
        try:
            found += _uids(tables / name, port)
        except FileNotFoundError:
            if name == "tcp":
                return None  # not Linux; a missing tcp6 only means no IPv6
        except (OSError, ValueError, IndexError):
            return None
    return frozenset(found)


def is_own_listener(port: int) -> bool:
    """Whether a process of this user listens there; False without a listener. CommandError for another user's process."""
    uids = listening_uids(port)
    if uids is None:
        return True  # the system does not provide owners: trust the port
    if foreign := uids - {os.geteuid()}:
        raise CommandError(
            ExitCode.DENIED,
            f"port {port} of this machine is taken by another user (uid {min(foreign)}), so the administrator's key was "
            "not sent there.",
            next_step="if that platform is meant, ask for a key and set LLMARINER_API_KEY; else start yours with another "
            "LLMARINER_PORT.",
        )
    return bool(uids)


def _uids(table: Path, port: int) -> Iterator[int]:
    with table.open(encoding="ascii") as lines:
        next(lines)
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield int(fields[7])
