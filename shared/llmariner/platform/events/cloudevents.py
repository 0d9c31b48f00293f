"""Serialization of CloudEvents 1.0 by the HTTP protocol binding, binary mode. The only module that imports the SDK.

functions-framework pins cloudevents below 1.13, whose interface version 2 of the SDK replaced; an upgrade changes this
module only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

__all__ = ["SOURCE", "Event", "MalformedEvent", "from_cloud_event", "from_http", "to_http"]

SOURCE = "/llmariner"
_MAX_DEPTH = 64
# HTTP protocol binding, 3.1.3.2: printable ASCII without space, quotation mark and percent sign is not encoded.
_UNESCAPED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


class MalformedEvent(ValueError):
    """The request has no valid CloudEvent; a retry does not help."""


@dataclass(frozen=True)
class Event:
    """An event. `time` is in seconds since 1970, `data` is a JSON object."""

    id: str
    type: str
    subject: str
    time: float
    data: dict[str, Any]


def to_http(event: Event) -> tuple[dict[str, str], bytes]:
    """Headers and body of a POST in binary mode. It works without the SDK, which functions that only publish do not install.

    ValueError, OverflowError or OSError for a time outside the calendar.
    """
    subject = quote(event.subject, safe=_UNESCAPED)
    headers = {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": event.id,
        "ce-source": SOURCE,
        "ce-type": event.type,
        "ce-subject": subject,
        "ce-time": datetime.fromtimestamp(event.time, UTC).isoformat(),
        # Kafka keeps the order of events with the same key (CloudEvents extension Partitioning).
        "ce-partitionkey": subject,
    }
    return headers, json.dumps(event.data).encode()


def from_http(headers: Mapping[str, str], body: bytes) -> Event:
    """Parse a request in binary or structured mode. MalformedEvent when it has no valid event."""
    from cloudevents.exceptions import GenericException
    from cloudevents.http import from_http as read

    try:
        return from_cloud_event(read(dict(headers), body))
    except (GenericException, ValueError, TypeError, RecursionError) as error:
        raise MalformedEvent(f"Not a CloudEvent: {error}") from error


def from_cloud_event(event: Any) -> Event:
    """Convert the SDK's event. MalformedEvent unless its data is a JSON object of valid text and its time is valid."""
    data = event.get_data()
    if not isinstance(data, dict):
        raise MalformedEvent("The data of an event must be a JSON object.")
    id_, type_, subject = str(event["id"]), str(event["type"]), str(event.get("subject") or "")
    if "\0" in id_ + type_ + subject:
        raise MalformedEvent("The attributes of an event hold no NUL, which no database keeps.")
    _check_encodable([id_, type_, subject, data])
    when = event.get("time")
    try:
        moment = (datetime.fromisoformat(str(when)) if when else datetime.now(UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise MalformedEvent(f"The time of an event must be as in RFC 3339, not {when!r}.") from error
    return Event(id=id_, type=type_, subject=subject, time=moment.timestamp(), data=data)


def _check_encodable(value: list[Any]) -> None:
    """MalformedEvent for a value that the database could store, but that can't be written as JSON in API responses."""
    level = value
    for _ in range(_MAX_DEPTH):
        parts = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list)))
        level = [inner for part in parts for inner in part]
    if level:
        raise MalformedEvent(f"The data of an event is at most {_MAX_DEPTH} levels deep.")
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise MalformedEvent("An event consists of Unicode text and finite numbers.") from error
