"""The client address of a request, behind trusted proxies, and the check of a key's allowed networks."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

from llmariner.errors import PermissionDenied

__all__ = ["ClientIpResolver"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ClientIpResolver:
    """`trusted`: networks of the proxies whose X-Forwarded-For is used; that of all others is ignored."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._trusted = tuple(ipaddress.ip_network(network) for network in trusted)

    def check_allowed(
        self, allowed: Sequence[str], scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes]
    ) -> None:
        """PermissionDenied unless the client address is in one of the allowed networks."""
        address = self.resolve(scope, headers)
        if address is None or not _in_any_network(address, _parse_networks(tuple(allowed))):
            raise PermissionDenied(
                f"This API key may not be used from {address or 'an unknown address'}: it is bound to certain networks. "
                "Call from one of them, or have the key's owner change them.",
                code="source_not_allowed",
            )

    def resolve(self, scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes]) -> str | None:
        """The last hop that is not a trusted proxy; None where the server does not know its peer."""
        client = scope.get("client")
        hops = _forwarded_for(scope) if b"x-forwarded-for" in headers else []
        address = client[0] if client else None
        while address is not None and hops and _in_any_network(address, self._trusted):
            address = hops.pop()
        return address

    def resolve_behind_proxy(
        self, scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes]
    ) -> tuple[str | None, bool]:
        """The address as of `resolve`, and whether it is an untrusted proxy, which stands for clients that are unknown."""
        address, client = self.resolve(scope, headers), scope.get("client")
        return address, b"x-forwarded-for" in headers and client is not None and address == client[0]


def _forwarded_for(scope: MutableMapping[str, Any]) -> list[str]:
    """The hops of X-Forwarded-For, first to last. Each proxy may add a header line of its own (RFC 9110 5.3)."""
    lines = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    return [hop.strip() for hop in lines.decode("latin-1").split(",") if hop.strip()]


def _in_any_network(address: str, networks: Iterable[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)


@lru_cache(maxsize=1024)
def _parse_networks(allowed: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(network, strict=False) for network in allowed)
