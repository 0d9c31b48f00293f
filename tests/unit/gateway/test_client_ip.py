"""The client address of a request, for all ways in which proxies write X-Forwarded-For."""

from __future__ import annotations

from typing import Any

import pytest

from llmariner.errors import PermissionDenied
from llmariner.gateway.requests.client_ip import ClientIpResolver
from llmariner.tenancy.keys.allowed_networks import is_allowed

TRUSTED = ("10.0.0.0/8", "fd00::/8")

CASES = {
    "nothing": ([], "10.0.0.1"),
    "one hop": (["203.0.113.9"], "203.0.113.9"),
    "an empty line": ([""], "10.0.0.1"),
    "through a proxy of ours": (["203.0.113.9, 10.0.0.7"], "203.0.113.9"),
    "through a proxy that adds a line": (["203.0.113.9", "10.0.0.7"], "203.0.113.9"),
    "a caller who names another before itself": (["192.0.2.7, 203.0.113.9"], "203.0.113.9"),
    "a caller whose own line comes first": (["192.0.2.7", "203.0.113.9"], "203.0.113.9"),
    "ours in the form of the other family": (["203.0.113.9, ::ffff:10.0.0.7"], "203.0.113.9"),
    "a caller in that form": (["::ffff:203.0.113.9"], "::ffff:203.0.113.9"),
    "octal": (["192.0.2.7, 012.0.0.1"], "012.0.0.1"),
    "hexadecimal": (["192.0.2.7, 0x0a000001"], "0x0a000001"),
    "short": (["192.0.2.7, 10.1"], "10.1"),
    "a port": (["192.0.2.7, 10.0.0.7:80"], "10.0.0.7:80"),
    "brackets": (["192.0.2.7, [fd00::1]"], "[fd00::1]"),
    "a word": (["192.0.2.7, unknown"], "unknown"),
}


@pytest.mark.parametrize(("lines", "found"), CASES.values(), ids=CASES)
def test_the_client_is_the_last_untrusted_address(lines: list[str], found: str) -> None:
    headers = [(b"x-forwarded-for", line.encode()) for line in lines]
    scope = {"client": ("10.0.0.1", 1234), "headers": headers}
    assert ClientIpResolver(TRUSTED).resolve(scope, dict(headers)) == found
    assert ClientIpResolver(()).resolve(scope, dict(headers)) == "10.0.0.1"


@pytest.mark.parametrize(
    "said", ["012.0.0.1", "0x0a000001", "167772161", "10.1", "10.0.0.7:80", "[fd00::1]", "unknown", "203.0.113.9"]
)
def test_an_invalid_address_is_in_no_network(said: str) -> None:
    headers = [(b"x-forwarded-for", said.encode())]
    scope = {"client": ("10.0.0.1", 1234), "headers": headers}
    for allowed in (["10.0.0.0/8", "fd00::/8"], ["0.0.0.0/5", "::/0"]):
        with pytest.raises(PermissionDenied, match="bound to certain networks"):
            ClientIpResolver(TRUSTED).check_allowed(allowed, scope, dict(headers))


def test_an_ipv4_client_has_one_form() -> None:
    for address in ("203.0.113.9", "::ffff:203.0.113.9"):
        ClientIpResolver(()).check_allowed(["203.0.113.0/24"], {"client": (address, 1), "headers": []}, {})


@pytest.mark.parametrize(
    ("address", "admitted"),
    [
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
        ("::ffff:198.51.100.1", False),
        ("2001:db8::1", True),
        ("2001:db8::1%eth0", True),
        ("2001:db9::1", False),
        ("", False),
        ("unknown", False),
        ("192.0.2.7:443", False),
        ("0300.0.2.7", False),
    ],
)
def test_networks_of_a_key_match_alike_in_functions_and_on_the_token_path(address: str, admitted: bool) -> None:
    allowed = ("192.0.2.0/24", "2001:db8::/32")
    assert is_allowed(allowed, address) is admitted
    scope: dict[str, Any] = {"client": (address, 1), "headers": []}
    try:
        ClientIpResolver(()).check_allowed(allowed, scope, {})
    except PermissionDenied:
        assert not admitted
    else:
        assert admitted
