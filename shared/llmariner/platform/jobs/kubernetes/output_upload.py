"""Uploads the files that a job left, from its pod. Only the standard library, from Python 3.8 on.

It runs as the job's command did, and holds what may do no more than this: a token with which the job's results are named,
and links that each make one of them.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

__all__ = ["main"]

_SECONDS = 60.0
_ATTEMPTS = 6
_PASSING = (408, 429, 500, 502, 503, 504)

ListFiles = Callable[[str, int, int, int], "tuple[list[tuple[str, int]], str]"]


def main(
    list_files: ListFiles, folder: str, url: str, max_bytes: str, max_files: str, max_name: str, token: str
) -> int:
    """Upload the files of the folder; returns an exit code."""
    files, left_out = list_files(folder, int(max_bytes), int(max_files), int(max_name))
    named = [{"name": name, "bytes": size} for name, size in files]
    body = json.dumps({"files": named, "left_out": left_out}).encode()
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    try:
        asked = _send(lambda: urllib.request.Request(url, body, headers, method="POST"))
        for each in json.loads(asked)["uploads"]:
            _upload(os.path.join(folder, each["name"]), each["url"])
    except (OSError, ValueError, KeyError) as error:
        print(f"Files in output/ were not kept: {_said(error)}", file=sys.stderr)
        return 1
    if left_out:
        print(left_out, file=sys.stderr)
    return 0


def _upload(path: str, url: str) -> None:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        headers = {"content-type": "application/octet-stream", "content-length": str(size)}

        def request() -> urllib.request.Request:
            file.seek(0)
            return urllib.request.Request(url, file, headers, method="PUT")

        try:
            _send(request)
        except urllib.error.HTTPError as error:
            if error.code != 409:  # an attempt whose answer was lost has made the file
                raise


def _send(request: Callable[[], urllib.request.Request]) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), *_trusting())
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with opener.open(request(), timeout=_SECONDS) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            if error.code not in _PASSING or attempt == _ATTEMPTS:
                raise
        except OSError:
            if attempt == _ATTEMPTS:
                raise
        time.sleep(attempt)
    raise AssertionError


def _trusting() -> list[Any]:
    """The handler that trusts the authority of the control plane, too, if the pod has one."""
    authority = os.environ.get("LLMARINER_AUTHORITY_FILE", "")
    if not os.path.exists(authority):
        return []
    import ssl

    context = ssl.create_default_context()
    context.load_verify_locations(authority)
    return [urllib.request.HTTPSHandler(context=context)]


def _said(error: Any) -> str:
    if isinstance(error, urllib.error.HTTPError):
        try:
            return str(json.loads(error.read(100_000))["error"]["message"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
    return str(error)
