"""Addresses as what is counted by them takes them."""

from __future__ import annotations

import ipaddress

__all__ = ["client_network"]

_SITE_BITS = 64


def client_network(source: str | None) -> str:
    """An address of IPv4, or the network of a site in IPv6, whose every host has more addresses than a table has rows."""
    try:
        address = ipaddress.ip_address(source or "")
    except ValueError:
        return source or ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), _SITE_BITS), strict=False))
