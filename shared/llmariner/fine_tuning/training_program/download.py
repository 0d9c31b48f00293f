"""The download of a file by its link: cut off, it continues where it stopped; when the link has expired, by another one."""

from __future__ import annotations

import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

from llmariner.fine_tuning.training_program.http_answers import TIMEOUT_SECONDS, Refused, error_of, trusted

__all__ = ["Download"]

_BLOCK_BYTES = 1 << 20
_EXPIRED = (400, 401, 403)
"""What stores say of an expired link: S3 403, others 400 or 401."""
_LINKS = 3
"""New links in a row by which the file has not come on."""
_REST = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")


class Download:
    """`new_link`: the URL of a new link to the same file. A `target` that exists is replaced."""

    def __init__(self, url: str, target: Path, new_link: Callable[[], str]) -> None:
        self._url = url
        self._target = target
        self._new_link = new_link
        self._links_left = _LINKS
        self._tag = ""
        # The most bytes that were had at the end of an answer, by which it came on.
        self._farthest = 0
        target.write_bytes(b"")

    def advance(self) -> bool:
        """Whether the file is whole now; if not, it has come on, or has another link.

        Raises HTTPError, HTTPException or OSError, after which it may be called again, and Refused, and as `new_link`.
        """
        had = self._target.stat().st_size
        try:
            self._read(had)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # it has no more bytes, so it is not the file that was begun
                self._tag = ""
                raise ConnectionError("The download could not be continued.") from error
            if error.code not in _EXPIRED or not self._links_left:
                raise
            self._replace_link(error)
            return False
        except (OSError, HTTPException):
            size = self._target.stat().st_size
            # Else a server that ends each answer at once, or begins again each time, would be asked for ever.
            if size < self._farthest + _BLOCK_BYTES:
                raise
            self._farthest, self._links_left = size, _LINKS
            return False
        return True

    def _replace_link(self, error: urllib.error.HTTPError) -> None:
        said = error_of(error)
        if said.get("code") not in (None, "link_expired"):
            raise Refused(str(said.get("message"))[:500], said["code"]) from error
        print(f"A link has expired, so another one is asked for: HTTP {error.code}", file=sys.stderr)
        self._links_left -= 1
        self._url = self._new_link()

    def _read(self, start: int) -> None:
        """Append what follows the first `start` bytes, or read all where the server does not continue the same file."""
        headers = {"range": f"bytes={start}-", "if-range": self._tag} if start and self._tag else {}
        request = urllib.request.Request(self._url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=trusted()) as answer:
            total = self._size_of_rest(answer, start) if headers else None
            if total is None:
                start, self._tag = 0, _tag_of(answer) if answer.status == 200 else ""
                if answer.status != 200:
                    raise ConnectionError("A part of another file came than was begun.")
            with self._target.open("r+b") as file:
                file.truncate(start)
                file.seek(start)
                while part := answer.read(_BLOCK_BYTES):
                    file.write(part)
                end = file.tell()
        # A server may send less of the rest than was asked for.
        if answer.length or total not in (None, end):
            raise ConnectionError("The download was cut off.")

    def _size_of_rest(self, answer: Any, start: int) -> int | None:
        """The size of the file that was begun; None: an answer is not its rest. Some stores ignore `if-range`."""
        rest = _REST.fullmatch(str(answer.headers.get("content-range", "")))
        continues = rest is not None and int(rest[1]) == start and _tag_of(answer) == self._tag
        return int(rest[2]) if rest is not None and continues and answer.status == 206 else None


def _tag_of(answer: Any) -> str:
    """By which an answer is known to be of the same bytes as another; empty: it is not."""
    tag = str(answer.headers.get("etag", ""))
    return "" if tag.startswith("W/") else tag
