"""Keeps a job from abstract Unix sockets of other processes, which no namespace but that of the network separates.

Landlock does that, from Linux 6.12 on (`landlock(7)`, version 6 of its ABI); an earlier kernel leaves them reachable. A
program with a scope of its own traces no process of another scope, so one that is started in a job can't trace its command.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["enter_socket_scope", "has_socket_scopes"]

# The same numbers on all architectures.
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_GET_VERSION = 1
_SCOPE_ABSTRACT_UNIX_SOCKET = 1
_FIRST_VERSION = 6
_PR_SET_NO_NEW_PRIVS = 38


class _Ruleset(ctypes.Structure):
    """`struct landlock_ruleset_attr`: handled file accesses, handled network accesses, scopes."""

    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def has_socket_scopes() -> bool:
    """Whether this kernel has them."""
    return int(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)) >= _FIRST_VERSION


def enter_socket_scope() -> None:
    """Let this process and all that it begins connect to their own abstract sockets alone, where the kernel can.

    It gains no rights by a program any more. Raises OSError.
    """
    if not has_socket_scopes():
        return
    rules = _Ruleset(0, 0, _SCOPE_ABSTRACT_UNIX_SOCKET)
    ruleset = _libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    _check(ruleset)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"landlock: {os.strerror(number)}")
