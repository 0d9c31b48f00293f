"""Reads single variables of the environment; what they mean together is `settings`' affair."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Environment", "Secret", "environment", "read_http_url", "read_networks", "read_number", "read_secret"]

Environment = Mapping[str, str]


def environment() -> Environment:
    """The process environment; the one place that reads it."""
    return os.environ


class Secret:
    """A string that does not show itself in a repr or a log line."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(**)"

    def __bool__(self) -> bool:
        return bool(self._value)


def read_secret(env: Environment, name: str) -> Secret:
    """`NAME`, or the content of the file that `NAME_FILE` points to (how Kubernetes mounts secrets)."""
    if path := env.get(f"{name}_FILE"):
        return Secret(Path(path).read_text().strip())
    return Secret(env.get(name, ""))


def read_number(env: Environment, name: str, default: float, *, minimum: float = 0) -> float:
    """The number that a variable holds, or the default for one that is not set. ValueError for another or a smaller."""
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a read_number, not {text!r}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum:g}, not {text}.")
    return value


def read_networks(env: Environment, name: str) -> tuple[str, ...]:
    """Networks in CIDR notation, apart by commas or spaces. ValueError for what is none."""
    found = tuple(part for part in re.split(r"[,\s]+", env.get(name, "")) if part)
    for network in found:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f"{name} must be networks such as 10.0.0.0/8,127.0.0.0/8: {error}.") from error
    return found


def read_http_url(env: Environment, name: str) -> str:
    """The URL that a variable holds, without a slash at its end; empty when it is not set. ValueError for another scheme."""
    value = env.get(name, "").rstrip("/")
    if value and not value.startswith(("http://", "https://")):
        raise ValueError(f"{name} must be an http:// or https:// URL, not {value!r}.")
    return value
