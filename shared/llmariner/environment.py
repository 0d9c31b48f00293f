"""Readers of single environment variables; `settings` combines and validates them."""

from __future__ import annotations

import hmac
import ipaddress
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "Environment",
    "Secret",
    "environment",
    "read_http_url",
    "read_images",
    "read_integer",
    "read_networks",
    "read_number",
    "read_object_name",
    "read_secret",
]

Environment = Mapping[str, str]

_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_OBJECT_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}")


def environment() -> Environment:
    """The process environment. No other code reads `os.environ`."""
    return os.environ


class Secret:
    """A string that is hidden in its repr, and so in log lines."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the string."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(**)"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)


def read_secret(env: Environment, name: str) -> Secret:
    """The content of the file that `NAME_FILE` points to (as Kubernetes mounts secrets), else the value of `NAME`."""
    if path := env.get(f"{name}_FILE"):
        return Secret(Path(path).read_text().strip())
    return Secret(env.get(name, ""))


def read_number(env: Environment, name: str, default: float, *, minimum: float = 0) -> float:
    """A variable as a finite number, or the default if it is unset. ValueError for other text or a value < `minimum`."""
    text = env.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} must be a number, not {text!r}.")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum:g}, not {text}.")
    return value


def read_integer(env: Environment, name: str, default: int, *, minimum: int = 0) -> int:
    """The same as a whole number. ValueError for a fraction: without it, 0.5 would count as 0."""
    value = read_number(env, name, default, minimum=minimum)
    if value != int(value):
        raise ValueError(f"{name} must be a whole number, not {env[name]}.")
    return int(value)


def read_images(env: Environment, name: str, default: str = "") -> dict[str, str]:
    """Names of images, separated by commas, and the references after their `=`, "" where there is none. ValueError."""
    images = {}
    for entry in (each.strip() for each in (env.get(name, "") or default).split(",") if each.strip()):
        image, separator, reference = (part.strip() for part in entry.partition("="))
        if not _IMAGE.fullmatch(image):
            raise ValueError(f"{name}: {image!r} must be a name such as pytorch-2.1.")
        if separator and not _REFERENCE.fullmatch(reference):
            raise ValueError(f"{name}: {reference!r} must be the reference of an image, such as pytorch:2.1.")
        images[image] = reference
    return images


def read_object_name(env: Environment, name: str) -> str:
    """A variable as the name of an object of Kubernetes, such as a storage class; empty if it is unset. ValueError."""
    value = env.get(name, "")
    if value and not _OBJECT_NAME.fullmatch(value):
        kind = name.removeprefix("LLMARINER_").partition("_")[2].replace("_", " ").lower()
        raise ValueError(f"{name} must be the name of a {kind}, not {value!r}.")
    return value


def read_networks(env: Environment, name: str) -> tuple[str, ...]:
    """Networks in CIDR notation, separated by commas or spaces. Raises ValueError for an invalid network."""
    found = tuple(part for part in re.split(r"[,\s]+", env.get(name, "")) if part)
    for network in found:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f"{name} must be networks such as 10.0.0.0/8,127.0.0.0/8: {error}.") from error
    return found


def read_http_url(env: Environment, name: str) -> str:
    """A variable as a URL without trailing slashes; empty if it is unset.

    Raises ValueError unless it is http(s), with a host and a valid port: else its first use would fail, and not the start.
    """
    value = env.get(name, "").rstrip("/")
    if value and not (value.startswith(("http://", "https://")) and _has_address(value)):
        raise ValueError(f"{name} must be an http:// or https:// URL, not {value!r}.")
    return value


def _has_address(url: str) -> bool:
    from urllib.parse import urlsplit  # most functions have no such setting

    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
