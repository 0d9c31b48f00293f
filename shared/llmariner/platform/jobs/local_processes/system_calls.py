"""System calls that a job's command must not use, as a filter of the kernel's (seccomp).

A user namespace would give it rights: to mount file systems of memory, which no limit counts, and to reach parts of the
kernel that are closed to it. Shared memory and messages of System V and anonymous memory files belong to no process or
folder that is measured. Keys that the kernel holds are inherited, so those of the user who started the platform
would be the command's too. To the command, its kernel has none of these; PyTorch and Python share memory at /dev/shm.
The processors that it may use are its limit of CPU, so it must not choose others.
"""

from __future__ import annotations

import ctypes
import errno
import os

__all__ = ["forbid_system_calls"]

_CLONE_NEWUSER = 0x10000000
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
# Instructions of `struct sock_filter`: load a word, jump where it is equal, at least, has a bit; return.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
# Offsets in `struct seccomp_data`: the call's number, the architecture, the lower half of the first argument.
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_X32 = 0x40000000
"""Numbers from this one on are those of the x32 ABI, which would be a way around the others."""

# clone and unshare, then those that do not exist for the command: shmget, msgget, memfd_create, memfd_secret, add_key,
# request_key, keyctl. `clone3` does not either, since a filter cannot see its flags; the C library then uses `clone`. Last
# `sched_setaffinity`, which is denied.
_GENERIC = ((220, 97), (194, 186, 279, 447, 217, 218, 219, 435), 122)
_CALLS = {
    "x86_64": (0xC000003E, (56, 272), (29, 68, 319, 447, 248, 249, 250, 435), 203),
    "aarch64": (0xC00000B7, *_GENERIC),
    "riscv64": (0xC00000F3, *_GENERIC),
}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def forbid_system_calls() -> None:
    """Forbid them to this process and all that it begins. Raises OSError. Its rights must be given up before."""
    instructions = [_Instruction(*each) for each in _instructions(os.uname().machine)]
    program = _Program(len(instructions), (_Instruction * len(instructions))(*instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")


def _instructions(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter. A jump's two numbers are how many instructions it skips where its condition holds, and where not."""
    architecture, creators, absent, affinity = _CALLS[machine]
    missing, denied = _ERROR | errno.ENOSYS, _ERROR | errno.EPERM
    program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, missing),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        program += [(_IF_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, missing)]
    for number in absent:
        program += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, missing)]
    program += [(_IF_EQUAL, 0, 1, affinity), (_RETURN, 0, 0, denied)]
    for number in creators:
        program += [
            (_IF_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_IF_BIT, 0, 1, _CLONE_NEWUSER),
            (_RETURN, 0, 0, denied),
            (_RETURN, 0, 0, _ALLOW),
        ]
    return [*program, (_RETURN, 0, 0, _ALLOW)]
