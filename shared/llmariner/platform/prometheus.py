"""Queries to a Prometheus server over its HTTP API, bounded in time and bytes; redirects are not followed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode, urlsplit

from llmariner.errors import Unavailable
from llmariner.platform.bounded_http import bounded_connection, read_whole

__all__ = ["Prometheus", "Sample"]

_MAX_BYTES = 32 * 2**20
_MAX_VALUE = 1e15
"""More than anything that is measured, and little enough for sums of all values of an answer."""


@dataclass(frozen=True)
class Sample:
    """The value of a series at the time of a query: at most 10^15 either way. Labels have printable characters alone."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """One server. `seconds`: how long an answer may take. Safe in any thread; methods block.

    `deadline`: when all answers must have come, in monotonic seconds.
    """

    def __init__(self, url: str, *, seconds: float = 10.0, deadline: float = math.inf) -> None:
        self._url = urlsplit(url)
        self._seconds = seconds
        self._deadline = deadline
        self._shown = f"Prometheus at {url}"

    def query(self, expression: str, at: float) -> list[Sample]:
        """The vector of an expression at a time, Unix seconds. Raises Unavailable.

        Series come from exporters and from other clusters: one that can't be measured, or stored, is left out.
        """
        seconds = min(self._seconds, self._deadline - time.monotonic())
        if seconds <= 0:
            raise self._unavailable("takes too long for all that is asked")
        body = urlencode({"query": expression, "time": f"{at:.3f}", "timeout": f"{seconds:.3f}"})
        try:
            document = json.loads(self._post(f"{self._url.path}/api/v1/query", body, seconds))
            return [each for each in map(_sample, document["data"]["result"]) if _is_valid(each)]
        except (OSError, HTTPException) as error:
            raise self._unavailable(f"does not answer: {str(error)[:200] or 'its time was over'}") from error
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise self._unavailable("answers something else than a vector") from error

    def _post(self, path: str, body: str, seconds: float) -> bytes:
        headers = {"content-type": "application/x-www-form-urlencoded", "user-agent": "llmariner"}
        with bounded_connection(self._url, seconds) as connection:
            connection.request("POST", path, body, headers)
            with connection.getresponse() as response:
                answer = read_whole(response, _MAX_BYTES)
                if response.status != 200:
                    raise HTTPException(f"status {response.status}, {answer[:200]!r}")
                return answer

    def _unavailable(self, why: str) -> Unavailable:
        return Unavailable(f"{self._shown} {why}.")


def _sample(result: Mapping[str, Any]) -> Sample:
    return Sample({str(name): str(value) for name, value in result["metric"].items()}, float(result["value"][1]))


def _is_valid(sample: Sample) -> bool:
    return abs(sample.value) <= _MAX_VALUE and all(map(str.isprintable, sample.labels.values()))
