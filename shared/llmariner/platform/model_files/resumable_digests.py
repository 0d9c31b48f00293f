"""Digests of a file that are continued by another process: their state between two blocks is text.

`hashlib` gives no state away, so the functions of libcrypto that it is built on are called. Their contexts are plain
structures of fixed size, unchanged since OpenSSL 0.9.8; a state is valid on machines of the same byte order.
"""

from __future__ import annotations

import _hashlib
import base64
import ctypes
import ctypes.util
import json
import sys
from functools import cache
from typing import Any

from llmariner.platform.model_files import FilesUnavailable, RemoteFile

__all__ = ["ResumableDigests"]

# Name of the digest → prefix of its functions, size of its context, size of the digest. The contexts are those of
# openssl/sha.h and openssl/md5.h.
_ALGORITHMS = {"sha256": ("SHA256", 112, 32), "git_sha1": ("SHA1", 96, 20), "md5": ("MD5", 92, 16)}
_SAID_AS = {"sha256": "SHA-256", "git_sha1": "Git digest", "md5": "MD5"}


class ResumableDigests:
    """SHA-256 of a file, and the other digests that its source names. Not thread-safe.

    `state`: of an object for the same file, by its `state`; empty: from the beginning. FilesUnavailable where this Python
    has no libcrypto.
    """

    def __init__(self, file: RemoteFile, state: str = "") -> None:
        names = ["sha256", *(name for name in ("git_sha1", "md5") if getattr(file, name))]
        self._file = file
        self._contexts: dict[str, Any] = {}
        saved: dict[str, str] = json.loads(state) if state else {}
        if state and (saved.pop("byteorder", "") != sys.byteorder or set(saved) != set(names)):
            raise FilesUnavailable(
                "The state of the digests is of another kind of machine. Delete the model and create it."
            )
        for name in names:
            prefix, size, _ = _ALGORITHMS[name]
            # Room beyond the structure, in case a build of the library has a larger one.
            context = ctypes.create_string_buffer(2 * size)
            if saved:
                context.raw = base64.b64decode(saved[name]).ljust(2 * size, b"\0")
            else:
                _call(f"{prefix}_Init", context)
            self._contexts[name] = context
        if "git_sha1" in self._contexts and not saved:
            header = b"blob %d\0" % file.size
            _call("SHA1_Update", self._contexts["git_sha1"], header, ctypes.c_size_t(len(header)))

    def update(self, data: bytes) -> None:
        """Add the next bytes. The interpreter's lock is released meanwhile."""
        for name, context in self._contexts.items():
            _call(f"{_ALGORITHMS[name][0]}_Update", context, data, ctypes.c_size_t(len(data)))

    @property
    def state(self) -> str:
        """What another object continues from."""
        states = {name: base64.b64encode(context.raw).decode() for name, context in self._contexts.items()}
        return json.dumps({"byteorder": sys.byteorder, **states})

    def finish(self) -> tuple[str, str]:
        """SHA-256 of the whole as hexadecimal, and the name of the digest of the file that differs; empty if none does."""
        found = {}
        for name, context in self._contexts.items():
            prefix, _, length = _ALGORITHMS[name]
            digest = ctypes.create_string_buffer(length)
            _call(f"{prefix}_Final", digest, context)
            found[name] = digest.raw.hex()
        said = {name: getattr(self._file, name) for name in found}
        wrong = next((_SAID_AS[name] for name in found if said[name] and said[name] != found[name]), "")
        return found["sha256"], wrong


def _call(name: str, *arguments: Any) -> None:
    if getattr(_library(), name)(*arguments) != 1:
        raise FilesUnavailable(f"libcrypto refuses {name}, which the digests of model files need.")


@cache
def _library() -> ctypes.CDLL:
    # A lookup in the module finds the libraries that it is linked with, too.
    for path in (getattr(_hashlib, "__file__", None), ctypes.util.find_library("crypto")):
        if path is not None:
            library = ctypes.CDLL(path)
            if hasattr(library, "SHA256_Init"):
                return library
    raise FilesUnavailable(
        "This Python is built without a shared libcrypto, so digests of model files can't be continued."
    )
