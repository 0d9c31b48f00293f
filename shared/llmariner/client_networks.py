"""The network by which clients are counted: one client can use every address of its IPv6 site."""

from __future__ import annotations

import ipaddress

__all__ = ["client_network"]

_SITE_BITS = 64


def client_network(source: str | None) -> str:
    """An IPv4 address as it is, an IPv6 address as its /64 network; text that is no address, as it is."""
    try:
        address = ipaddress.ip_address(source or "")
    except ValueError:
        return source or ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), _SITE_BITS), strict=False))
