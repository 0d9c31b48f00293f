"""Dex' configuration: what is the same everywhere, and the connectors that an administrator brings.

No password of a person is in it, and no secret of ours: the command line is a public client, which proves itself by PKCE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml

from llmariner.installation.retry import Waiting

__all__ = ["BROUGHT", "PATH", "configuration"]

PATH = "/v1/dex"
"""Where the Gateway hands requests to Dex."""

BROUGHT = "llmariner-dex-connectors"
_BRING = (
    f"There is no Secret {BROUGHT}. Write connectors.yaml, a list as Dex' documentation describes it, and bring it: "
    f"kubectl -n llmariner create secret generic {BROUGHT} --from-file=connectors.yaml"
)
# Those that send a person away and wait for their return.
_WITH_REDIRECT = frozenset({
    *("bitbucket-cloud", "gitea", "github", "gitlab", "google", "linkedin", "microsoft", "oauth", "oidc"),
    *("openshift", "saml"),
})  # fmt: skip


def configuration(issuer: str, brought: Mapping[str, str] | None, *, client_id: str = "llmariner") -> dict[str, str]:
    """The content of the Secret that Dex reads. Waiting, with what to do, while something is missing or wrong."""
    if urlsplit(issuer).path != PATH:
        raise Waiting(
            f"Set LLMARINER_OIDC_ISSUER=https://PUBLIC_HOST{PATH} in settings.env: people reach Dex there, and it must be "
            f"the name that it gives itself. Now it is {issuer or 'not set'}."
        )
    if brought is None:
        raise Waiting(_BRING)
    document = {
        "issuer": issuer,
        # Its own kinds, which the installation made: it needs no right to make any.
        "storage": {"type": "kubernetes", "config": {"inCluster": True, "crdHandling": "check"}},
        "web": {"http": "0.0.0.0:5556"},
        "telemetry": {"http": "0.0.0.0:5558"},
        "oauth2": {"grantTypes": _grants(brought), "skipApprovalScreen": True},
        # A leaver is kept out by their membership, at once; this bounds how long their sign-in is renewed.
        "expiry": {"idTokens": "1h", "refreshTokens": {"validIfNotUsedFor": "720h", "absoluteLifetime": "2160h"}},
        # Public, and without addresses to return to: Dex then takes every port of the person's own machine.
        "staticClients": [{"id": client_id, "name": "LLMariner", "public": True}, *_list(brought, "clients.yaml")],
        "connectors": [_connector(each, issuer) for each in _list(brought, "connectors.yaml", least=1)],
    }
    return {"config.yaml": yaml.safe_dump(document, sort_keys=False)}


def _grants(brought: Mapping[str, str]) -> list[str]:
    """Without exchange unless it was asked for: Dex takes every token of a connector's issuer, whomever it was made for.

    So whatever application somebody signs in to by that issuer could come in here as them (Dex v2.45.1, connector/oidc).
    """
    grants = ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"]
    said = brought.get("token-exchange", "off").strip()
    if said not in ("on", "off"):
        raise Waiting(f"token-exchange in the Secret {BROUGHT} must be on or off.")
    return [*grants, "urn:ietf:params:oauth:grant-type:token-exchange"] if said == "on" else grants


def _list(brought: Mapping[str, str], key: str, *, least: int = 0) -> list[dict[str, Any]]:
    try:
        found = yaml.safe_load(brought.get(key, "")) or []
    except yaml.YAMLError as error:
        # The error's own text would quote the file, and that holds secrets.
        raise Waiting(f"{key} in the Secret {BROUGHT} is no YAML.") from error
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found) or len(found) < least:
        raise Waiting(f"{key} in the Secret {BROUGHT} must be a list of at least {least} mappings.")
    return found


def _connector(brought: dict[str, Any], issuer: str) -> dict[str, Any]:
    missing = [key for key in ("type", "id", "name") if not brought.get(key)]
    if missing:
        raise Waiting(f"A connector in the Secret {BROUGHT} lacks {', '.join(missing)}.")
    config = dict(brought.get("config") or {})
    if brought["type"] in _WITH_REDIRECT:
        config.setdefault("redirectURI", f"{issuer}/callback")
    return {**brought, "config": config}
