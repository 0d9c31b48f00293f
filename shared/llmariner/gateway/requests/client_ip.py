"""Where a request comes from, as far as those in front of us can be believed, and whether its key may come from there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

from llmariner.errors import PermissionDenied

__all__ = ["ClientIpResolver"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientIpResolver:
    """`trusted`: networks of those who say in X-Forwarded-For whom they speak for; nobody else is believed."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = tuple(ipaddress.ip_network(network) for network in trusted)

    def check_allowed(
        self, allowed: Sequence[str], scope: MutableMapping[str, Any], head: Mapping[bytes, bytes]
    ) -> None:
        """PermissionDenied unless the request comes from one of the allowed networks."""
        address = self.resolve(scope, head)
        if address is None or not _within(address, _networks(tuple(allowed))):
            raise PermissionDenied(
                f"This API key may not be used from {address or 'an unknown address'}: it is bound to certain networks. "
                "Call from one of them, or have the key's owner change them.",
                code="source_not_allowed",
            )

    def resolve(self, scope: MutableMapping[str, Any], head: Mapping[bytes, bytes]) -> str | None:
        """The last address on the way that is not one of ours; None where it can't be told."""
        client = scope.get("client")
        hops = _forwarded_for(scope) if b"x-forwarded-for" in head else []
        found = client[0] if client else None
        while found is not None and hops and _within(found, self._trusted):
            found = hops.pop()
        return found

    def resolve_behind_proxy(
        self, scope: MutableMapping[str, Any], head: Mapping[bytes, bytes]
    ) -> tuple[str | None, bool]:
        """As `address`, and whether that is a proxy that nobody trusts: then it stands for callers who can't be told."""
        address, client = self.resolve(scope, head), scope.get("client")
        return address, b"x-forwarded-for" in head and client is not None and address == client[0]


def _forwarded_for(scope: MutableMapping[str, Any]) -> list[str]:
    """The hops that the header names, first to last. Some proxies add a line of it each (RFC 9110, 5.3)."""
    lines = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    return [hop.strip() for hop in lines.decode("latin-1").split(",") if hop.strip()]


def _within(address: str, networks: Iterable[Network]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


@lru_cache(maxsize=1024)
def _networks(allowed: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(network, strict=False) for network in allowed)
