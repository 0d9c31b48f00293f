"""The configuration of Dex: fixed settings, and the connectors from the administrator's Secret.

It holds no user's password and no client secret: the command line is a public client with PKCE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml

from llmariner.installation.retry import RetryLater

__all__ = ["CONNECTORS_SECRET", "PATH", "render_configuration"]

PATH = "/v1/dex"
"""The path prefix that the Gateway routes to Dex."""

CONNECTORS_SECRET = "llmariner-dex-connectors"
_CREATE_SECRET_HINT = (
    f"There is no Secret {CONNECTORS_SECRET}. Write connectors.yaml, a list as Dex' documentation describes it, and bring "
    f"it: kubectl -n llmariner create secret generic {CONNECTORS_SECRET} --from-file=connectors.yaml"
)
# Connector types that redirect the browser and need a redirectURI.
_REDIRECT_CONNECTOR_TYPES = frozenset({
    *("bitbucket-cloud", "gitea", "github", "gitlab", "google", "linkedin", "microsoft", "oauth", "oidc"),
    *("openshift", "saml"),
})  # fmt: skip


def render_configuration(
    issuer: str, provided: Mapping[str, str] | None, *, client_id: str = "llmariner"
) -> dict[str, str]:
    """The content of the Secret that Dex reads. RetryLater when the connectors are missing or invalid."""
    if urlsplit(issuer).path != PATH:
        raise RetryLater(
            f"Set LLMARINER_OIDC_ISSUER=https://PUBLIC_HOST{PATH} in settings.env: people reach Dex there, and it must be "
            f"the name that it gives itself. Now it is {issuer or 'not set'}."
        )
    if provided is None:
        raise RetryLater(_CREATE_SECRET_HINT)
    document = {
        "issuer": issuer,
        # The installation applies Dex' CustomResourceDefinitions, so Dex needs no permission to create them.
        "storage": {"type": "kubernetes", "config": {"inCluster": True, "crdHandling": "check"}},
        "web": {"http": "0.0.0.0:5556"},
        "telemetry": {"http": "0.0.0.0:5558"},
        "oauth2": {"grantTypes": _grants(provided), "skipApprovalScreen": True},
        # Access ends with the membership, immediately; this only bounds how long a sign-in can be refreshed.
        "expiry": {"idTokens": "1h", "refreshTokens": {"validIfNotUsedFor": "720h", "absoluteLifetime": "2160h"}},
        # A public client without redirectURIs: Dex then accepts every port of the loopback interface.
        "staticClients": [
            {"id": client_id, "name": "LLMariner", "public": True},
            *_parse_list(provided, "clients.yaml"),
        ],
        "connectors": [_connector(each, issuer) for each in _parse_list(provided, "connectors.yaml", minimum=1)],
    }
    return {"config.yaml": yaml.safe_dump(document, sort_keys=False)}


def _grants(provided: Mapping[str, str]) -> list[str]:
    """The grant types; token exchange only if `token-exchange` is on.

    Dex does not check the audience of exchanged tokens, so any application that users sign in to by the same issuer
    could impersonate them here (Dex v2.45.1, connector/oidc).
    """
    grants = ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]
    value = provided.get("token-exchange", "off").strip()
    if value not in ("on", "off"):
        raise RetryLater(f"token-exchange in the Secret {CONNECTORS_SECRET} must be on or off.")
    return [*grants, "urn:ietf:params:oauth:grant-type:token-exchange"] if value == "on" else grants


def _parse_list(provided: Mapping[str, str], key: str, *, minimum: int = 0) -> list[dict[str, Any]]:
    try:
        found = yaml.safe_load(provided.get(key, "")) or []
    except yaml.YAMLError as error:
        # The original message would quote the file, which holds secrets.
        raise RetryLater(f"{key} in the Secret {CONNECTORS_SECRET} is no YAML.") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found) or len(found) < minimum:
        raise RetryLater(f"{key} in the Secret {CONNECTORS_SECRET} must be a list of at least {minimum} mappings.")
    return found


def _connector(provided: dict[str, Any], issuer: str) -> dict[str, Any]:
    missing = [key for key in ("type", "id", "name") if not provided.get(key)]
    if missing:
        raise RetryLater(f"A connector in the Secret {CONNECTORS_SECRET} lacks {', '.join(missing)}.")
    config = dict(provided.get("config") or {})
    if provided["type"] in _REDIRECT_CONNECTOR_TYPES:
        config.setdefault("redirectURI", f"{issuer}/callback")
    return {**provided, "config": config}
