"""Settings of the OpenID Connect issuer that signs people in; `llmariner.settings` exports them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from llmariner.environment import Environment, read_number

__all__ = ["IdentitySettings"]


@dataclass(frozen=True)
class IdentitySettings:
    """The OpenID Connect issuer. Without one, API keys are the only credentials."""

    issuer: str = ""
    """`LLMARINER_OIDC_ISSUER`: the issuer's own identifier, verbatim. Empty: sign-in is off."""

    client_id: str = "llmariner"
    """`LLMARINER_OIDC_CLIENT_ID`: the public client with which the command line signs people in."""

    clients: frozenset[str] = frozenset({"llmariner"})
    """`LLMARINER_OIDC_CLIENTS`: clients whose tokens are accepted besides `client_id`, separated by spaces."""

    audiences: frozenset[str] = frozenset({"llmariner"})
    """`LLMARINER_OIDC_AUDIENCES`: accepted audiences, separated by spaces. Default: the clients, as in ID tokens."""

    scopes: str = "openid profile email groups offline_access"
    """`LLMARINER_OIDC_SCOPES`: scopes that the command line requests."""

    algorithms: frozenset[str] = frozenset({"RS256", "PS256", "ES256", "EdDSA"})
    """`LLMARINER_OIDC_ALGORITHMS`: accepted signature algorithms: RS, PS or ES with 256, 384 or 512, and EdDSA."""

    groups_claim: str = "groups"
    """`LLMARINER_OIDC_GROUPS_CLAIM`: the token's claim with the person's groups."""

    groups_omitted: bool = False
    """`LLMARINER_OIDC_GROUPS_OMITTED`: 1: the issuer, like Dex, omits the claim for a person without groups."""

    leeway: float = 30.0
    """`LLMARINER_OIDC_LEEWAY_SECONDS`: tolerated clock difference, at most 300."""

    outage_seconds: float = 3600.0
    """`LLMARINER_OIDC_OUTAGE_SECONDS`: how long cached signing keys remain valid while the issuer does not respond."""

    internal_url: str = ""
    """`LLMARINER_OIDC_INTERNAL_URL`: URL at which functions reach the issuer, if not its own."""

    trust_unverified_email: bool = False
    """`LLMARINER_OIDC_TRUST_EMAIL`: 1: accept e-mail addresses that the issuer does not mark as verified."""

    default_role: str = "none"
    """`LLMARINER_OIDC_NEWCOMERS`: role of an uninvited person in the default organization: none, reader, member."""

    plain_http: bool = False
    """`LLMARINER_OIDC_PLAIN_HTTP`: 1: accept an http:// issuer that is not on this machine. For tests."""

    @classmethod
    def load(cls, env: Environment) -> IdentitySettings:
        """Read from a mapping. Raises ValueError that names the invalid variable."""
        client_id = env.get("LLMARINER_OIDC_CLIENT_ID") or cls.client_id
        clients = frozenset({client_id, *env.get("LLMARINER_OIDC_CLIENTS", "").split()})
        loaded = cls(
            issuer=env.get("LLMARINER_OIDC_ISSUER", ""),
            client_id=client_id,
            clients=clients,
            audiences=frozenset(env.get("LLMARINER_OIDC_AUDIENCES", "").split()) or clients,
            scopes=env.get("LLMARINER_OIDC_SCOPES") or cls.scopes,
            algorithms=frozenset(env.get("LLMARINER_OIDC_ALGORITHMS", "").split()) or cls.algorithms,
            groups_claim=env.get("LLMARINER_OIDC_GROUPS_CLAIM") or cls.groups_claim,
            groups_omitted=env.get("LLMARINER_OIDC_GROUPS_OMITTED", "0") == "1",
            leeway=read_number(env, "LLMARINER_OIDC_LEEWAY_SECONDS", cls.leeway),
            outage_seconds=read_number(env, "LLMARINER_OIDC_OUTAGE_SECONDS", cls.outage_seconds),
            internal_url=env.get("LLMARINER_OIDC_INTERNAL_URL", ""),
            trust_unverified_email=env.get("LLMARINER_OIDC_TRUST_EMAIL", "0") == "1",
            default_role=env.get("LLMARINER_OIDC_NEWCOMERS") or cls.default_role,
            plain_http=env.get("LLMARINER_OIDC_PLAIN_HTTP", "0") == "1",
        )
        loaded._check()
        return loaded

    def is_trusted_url(self, url: str) -> bool:
        """Whether documents at a URL are trusted: https, this machine, `internal_url`, or any if `plain_http`."""
        return self._is_safe(url) or (bool(self.internal_url) and url.startswith(self.internal_url))

    def _is_safe(self, url: str) -> bool:
        parts = urlsplit(url)
        host = parts.hostname or ""
        plain = parts.scheme == "http" and (self.plain_http or _is_this_machine(host))
        return bool(host) and (parts.scheme == "https" or plain)

    def _check(self) -> None:
        if self.issuer and not self._is_safe(self.issuer):
            raise ValueError(f"LLMARINER_OIDC_ISSUER must be an https:// URL, not {self.issuer!r}.")
        if self.internal_url and urlsplit(self.internal_url).scheme not in ("http", "https"):
            raise ValueError("LLMARINER_OIDC_INTERNAL_URL must be the http:// URL of the issuer inside the cluster.")
        if wrong := sorted(self.algorithms - _ASYMMETRIC):
            raise ValueError(f"LLMARINER_OIDC_ALGORITHMS must be of {', '.join(sorted(_ASYMMETRIC))}, not {wrong[0]}.")
        if self.leeway > 300:
            raise ValueError("LLMARINER_OIDC_LEEWAY_SECONDS must be at most 300; set the clocks right instead.")
        if self.default_role not in ("none", "reader", "member"):
            raise ValueError(f"LLMARINER_OIDC_NEWCOMERS must be none, reader or member, not {self.default_role!r}.")


# With a symmetric algorithm every client could forge tokens; with `none` everybody could.
_ASYMMETRIC = frozenset({f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA"})


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
