"""The networks from which a key may be used, in CIDR form, IPv4 and IPv6."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from llmariner.errors import InvalidRequest

__all__ = ["is_allowed", "parse_networks"]

_MAX_NETWORKS = 100
# The prefix length of IPv4-mapped IPv6 addresses, ::ffff:0:0/96 (RFC 4291, 2.5.5.2).
_MAPPED_BITS = 96


def parse_networks(values: Sequence[str], param: str = "allowed_sources") -> tuple[str, ...]:
    """The networks in canonical form; a single address becomes a network of one. InvalidRequest for an invalid value."""
    if len(values) > _MAX_NETWORKS:
        raise InvalidRequest(f"'{param}' must name at most {_MAX_NETWORKS} networks.", param=param)
    return tuple(dict.fromkeys(_parse_network(each, f"{param}[{index}]") for index, each in enumerate(values)))


def is_allowed(sources: Sequence[str] | None, address: str) -> bool:
    """Whether a caller with that address may use a key with these networks; None: all. False for an invalid address."""
    if sources is None:
        return True
    try:
        caller = ipaddress.ip_address(address)
    except ValueError:
        return False
    # A dual-stack server sees IPv4 clients as IPv4-mapped IPv6 addresses.
    mapped = getattr(caller, "ipv4_mapped", None)
    return any((mapped or caller) in ipaddress.ip_network(each) for each in sources)


def _parse_network(values: str, param: str) -> str:
    try:
        network = ipaddress.ip_network(values.strip())
    except ValueError as error:
        raise InvalidRequest(
            f"'{param}' must be an address or a network, such as 192.0.2.7 or 10.1.0.0/16: {error}.", param=param
        ) from error
    if isinstance(network, ipaddress.IPv4Network):
        return str(network)
    address = network.network_address
    if address.scope_id is not None:
        raise InvalidRequest(
            f"'{param}' must not name a zone ('%{address.scope_id}'), which means nothing on another machine.",
            param=param,
        )
    # IPv4 clients are compared by their IPv4 address, so IPv4-mapped networks are stored as IPv4 networks.
    mapped = address.ipv4_mapped if network.prefixlen >= _MAPPED_BITS else None
    return str(network) if mapped is None else f"{mapped}/{network.prefixlen - _MAPPED_BITS}"
