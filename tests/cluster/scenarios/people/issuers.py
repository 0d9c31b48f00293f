"""The issuer that authenticates people: Dex as a pod, before a company's issuer on this machine; or that issuer by itself.

Dex is taken where LLMARINER_TEST_DEX names its program, which is made into an image here.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from llmariner.installation.dex import CONNECTORS_SECRET, PATH
from llmariner.manifests.installation import NAMESPACE
from llmariner.settings import environment

from ...lab.images import Image, load
from ...lab.kubectl import apply, get, kubectl
from ...lab.places import Lab
from ...lab.wait import until
from ...platform.installed import Installed
from ...platform.overlay import CHECKOUT, over, write
from ..functions import Functions
from ..relay import Relay

if TYPE_CHECKING:
    from identity.issuer import RunningIssuer, Signer, SigningKey

__all__ = ["CONSOLE", "TrustedIssuer", "start_trusted_issuer"]

CONSOLE = "console"
"""Another client of the same issuer, whose tokens are none of the platform's."""

_issuer = importlib.import_module("....identity.issuer", __package__)

_IMAGE = "dev.local/llmariner/dex:test"
_DEFINITIONS = CHECKOUT / "manifests" / "components" / "dex" / "definitions.yaml"
_OBJECTS = (
    *(
        "deployment/dex",
        "service/dex",
        "serviceaccount/dex",
        "role/dex",
        "rolebinding/dex",
        "httproutes.gateway.networking.k8s.io/dex",
    ),
    *("secret/llmariner-dex", f"secret/{CONNECTORS_SECRET}"),
)


@dataclass(frozen=True)
class TrustedIssuer:
    """`url` is the issuer's name; the company's issuer has the accounts and their groups."""

    url: str
    company: RunningIssuer
    signer: Callable[[], Signer]
    """Signs with the key that the issuer signs with now."""


@contextlib.contextmanager
def start_trusted_issuer(installed: Installed, folder: Path) -> Iterator[TrustedIssuer]:
    """The platform with an issuer; afterwards it has none again."""
    program = environment().get("LLMARINER_TEST_DEX", "")
    with _by_dex(installed, folder, Path(program)) if program else _by_the_company(installed, folder) as trusted_issuer:
        yield trusted_issuer


@contextlib.contextmanager
def _by_the_company(installed: Installed, folder: Path) -> Iterator[TrustedIssuer]:
    lab = installed.lab
    with Relay() as relay:
        clients = (_issuer.CLIENT, {**_issuer.CLIENT, "client_id": CONSOLE})
        company = _issuer.RunningIssuer(folder, host=lab.host_address, name=relay.url, clients=clients)
        host, port = company.listens
        relay.to(host, port)
        inside = f"LLMARINER_OIDC_INTERNAL_URL=http://{host}:{port}"
        overlay = over(lab.folder, "overlay-people", configMapGenerator=_settings(relay.url, inside))
        with company, _applied(installed, overlay):
            yield TrustedIssuer(relay.url, company, lambda: company)


@contextlib.contextmanager
def _by_dex(installed: Installed, folder: Path, program: Path) -> Iterator[TrustedIssuer]:
    lab = installed.lab
    with Relay() as relay:
        relay.to(installed.address, 80)
        url = f"{relay.url}{PATH}"
        client = {
            "client_id": "dex",
            "client_secret": secrets.token_urlsafe(32),
            "redirect_uris": [f"{url}/callback"],
            "grant_types": ["authorization_code", "refresh_token"],
        }
        company = _issuer.RunningIssuer(folder, host=lab.host_address, clients=(client,))
        _load(lab, program, folder)
        _bring(lab, company.url, client)
        overlay = over(
            lab.folder,
            "overlay-people",
            "dex",
            configMapGenerator=_settings(url),
            images=[{"name": "dexidp/dex", "newName": _IMAGE.rpartition(":")[0], "newTag": _IMAGE.rpartition(":")[2]}],
            # As the test overlay has it of all routes.
            patches=[{"target": {"kind": "HTTPRoute", "name": "dex"}, "patch": _WITHOUT_HOST}],
        )
        with company, _applied(installed, overlay):
            kubectl(lab, "rollout", "status", "deployment/dex", "-n", NAMESPACE, "--timeout=180s", seconds=200)
            yield TrustedIssuer(url, company, lambda: _issuer.Signer(url, _key(lab)))


_WITHOUT_HOST = json.dumps([{"op": "remove", "path": "/spec/hostnames"}])


def _settings(issuer: str, *more: str) -> list[dict[str, Any]]:
    setting = {"name": "llmariner-settings", "namespace": NAMESPACE, "behavior": "merge"}
    literals = [f"LLMARINER_OIDC_ISSUER={issuer}", *more]
    return [{**setting, "literals": literals, "options": {"disableNameSuffixHash": True}}]


def _load(lab: Lab, program: Path, folder: Path) -> None:
    archive = folder / "dex.tar"
    Image(_IMAGE, {"/usr/local/bin/dex": program}, "/usr/local/bin/dex").write(archive)
    load(lab, archive)
    archive.unlink()


def _bring(lab: Lab, company: str, client: dict[str, Any]) -> None:
    """What an administrator brings: the connector to the company, and one more client."""
    config = {
        "issuer": company,
        "clientID": client["client_id"],
        "clientSecret": client["client_secret"],
        "scopes": ["profile", "email", "groups", "offline_access"],
        "insecureEnableGroups": True,
    }
    files = {
        "connectors.yaml": [{"type": "oidc", "id": "company", "name": "Company", "config": config}],
        "clients.yaml": [{"id": CONSOLE, "name": "Console", "public": True}],
    }
    metadata = {"name": CONNECTORS_SECRET, "namespace": NAMESPACE}
    data = {name: yaml.safe_dump(content) for name, content in files.items()}
    apply(lab, [{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}])


def _key(lab: Lab) -> SigningKey:
    """Dex' own, as it keeps it."""
    (keys,) = get(lab, "signingkeies.dex.coreos.com", "-n", NAMESPACE)["items"]
    found: SigningKey = _issuer.SigningKey.of(keys["signingKey"])
    return found


@contextlib.contextmanager
def _applied(installed: Installed, overlay: Path) -> Iterator[None]:
    lab = installed.lab
    try:
        _apply(installed, overlay)
        yield
    finally:
        kubectl(lab, "delete", "-n", NAMESPACE, "--ignore-not-found", *_OBJECTS)
        kubectl(lab, "delete", "--ignore-not-found", "-f", _DEFINITIONS)
        _apply(installed, write(lab.folder / "overlay"))


def _apply(installed: Installed, overlay: Path) -> None:
    """As docs/sign-in.md says it: the secrets Job again, and functions that are awake restart."""
    lab = installed.lab
    kubectl(lab, "delete", "jobs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=secrets", "--ignore-not-found")
    kubectl(lab, "apply", "--server-side", "--force-conflicts", "-k", overlay, seconds=300)
    until("the secrets Job is done", lambda: _job_left(lab), seconds=300)
    kubectl(lab, "delete", "pods", "-n", NAMESPACE, "-l", "serving.knative.dev/service", seconds=300)
    functions = Functions(installed)
    for name in functions.services():
        functions.ready(name, seconds=300)


def _job_left(lab: Lab) -> str | None:
    jobs = get(lab, "jobs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=secrets")["items"]
    done = [each.get("status", {}) for each in jobs]
    return None if any(each.get("succeeded") for each in done) else f"not yet: {done}"
