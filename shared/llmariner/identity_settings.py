"""Settings of who vouches for people; read like all others, with `llmariner.settings`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from llmariner.environment import Environment, number

__all__ = ["IdentitySettings"]


@dataclass(frozen=True)
class IdentitySettings:
    """Who vouches for people: an OpenID Connect issuer. Without one there are API keys only."""

    issuer: str = ""
    """`LLMARINER_OIDC_ISSUER`: exactly as the issuer names itself. Empty: nobody signs in."""

    client_id: str = "llmariner"
    """`LLMARINER_OIDC_CLIENT_ID`: the public client by which the command line signs people in."""

    clients: frozenset[str] = frozenset({"llmariner"})
    """`LLMARINER_OIDC_CLIENTS`: more clients whose tokens are taken, separated by spaces; `client_id` is one of them."""

    audiences: frozenset[str] = frozenset({"llmariner"})
    """`LLMARINER_OIDC_AUDIENCES`: audiences that mean this platform. Default: the clients, as in id tokens."""

    scopes: str = "openid profile email groups offline_access"
    """`LLMARINER_OIDC_SCOPES`: what the command line asks for, of what the issuer knows."""

    algorithms: frozenset[str] = frozenset({"RS256", "PS256", "ES256", "EdDSA"})
    """`LLMARINER_OIDC_ALGORITHMS`: of RS, PS and ES with 256, 384 and 512, and EdDSA."""

    groups_claim: str = "groups"
    """`LLMARINER_OIDC_GROUPS_CLAIM`: where a token says of which groups a person is."""

    groups_omitted: bool = False
    """`LLMARINER_OIDC_GROUPS_OMITTED`: 1: the issuer, as Dex, leaves the claim out where a person is of no group."""

    leeway: float = 30.0
    """`LLMARINER_OIDC_LEEWAY_SECONDS`: by how much clocks may differ, at most 300."""

    outage_seconds: float = 3600.0
    """`LLMARINER_OIDC_OUTAGE_SECONDS`: so long the issuer's known keys stay good when it does not answer."""

    internal_url: str = ""
    """`LLMARINER_OIDC_INTERNAL_URL`: where functions reach the issuer, if not at its own name."""

    trust_unverified_email: bool = False
    """`LLMARINER_OIDC_TRUST_EMAIL`: 1: believe e-mails that the issuer does not call verified."""

    default_role: str = "none"
    """`LLMARINER_OIDC_NEWCOMERS`: what nobody invited becomes in the default organization: none, reader, member."""

    plain_http: bool = False
    """`LLMARINER_OIDC_PLAIN_HTTP`: 1: take an issuer on http:// that is not on this machine. For tests."""

    @classmethod
    def load(cls, env: Environment) -> IdentitySettings:
        """Read from a mapping. ValueError says which variable is wrong."""
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
        """Whether what is read at that URL may be believed: https, this machine, or as the settings allow."""
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


# A secret shared with the issuer would let every client make tokens; `none` everybody.
_ASYMMETRIC = frozenset({f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA"})


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
