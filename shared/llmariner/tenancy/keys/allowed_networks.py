"""From where a key may be used: networks in CIDR form, of IPv4 and IPv6."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from llmariner.errors import InvalidRequest

__all__ = ["is_allowed", "parse_networks"]

_MAX_NETWORKS = 100
# Of ::ffff:0:0/96 (RFC 4291, 2.5.5.2).
_MAPPED_BITS = 96


def parse_networks(said: Sequence[str], param: str = "allowed_sources") -> tuple[str, ...]:
    """The networks in their canonical form; a single address is one of its own. InvalidRequest for what is none."""
    if len(said) > _MAX_NETWORKS:
        raise InvalidRequest(f"'{param}' must name at most {_MAX_NETWORKS} networks.", param=param)
    return tuple(dict.fromkeys(_network(each, f"{param}[{index}]") for index, each in enumerate(said)))


def is_allowed(sources: Sequence[str] | None, address: str) -> bool:
    """Whether a caller from that address is let in; None: from everywhere. An address that is none is not."""
    if sources is None:
        return True
    try:
        caller = ipaddress.ip_address(address)
    except ValueError:
        return False
    # A server that listens on IPv6 sees callers of IPv4 in this disguise.
    mapped = getattr(caller, "ipv4_mapped", None)
    return any((mapped or caller) in ipaddress.ip_network(each) for each in sources)


def _network(said: str, param: str) -> str:
    try:
        found = ipaddress.ip_network(said.strip())
    except ValueError as error:
        raise InvalidRequest(
            f"'{param}' must be an address or a network, such as 192.0.2.7 or 10.1.0.0/16: {error}.", param=param
        ) from error
    if isinstance(found, ipaddress.IPv4Network):
        return str(found)
    address = found.network_address
    if address.scope_id is not None:
        raise InvalidRequest(
            f"'{param}' must not name a zone ('%{address.scope_id}'), which means nothing on another machine.",
            param=param,
        )
    # Callers of IPv4 are compared by their own addresses.
    mapped = address.ipv4_mapped if found.prefixlen >= _MAPPED_BITS else None
    return str(found) if mapped is None else f"{mapped}/{found.prefixlen - _MAPPED_BITS}"
