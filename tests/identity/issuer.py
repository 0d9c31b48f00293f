"""A real OpenID Connect issuer (npm oidc-provider) for a test, and a browser that signs in there.

The signing keys are made here, so that a test can also sign what the issuer never would.
"""

from __future__ import annotations

import html
import importlib
import json
import re
import select
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

from llmariner.cli.sign_in.issuer import AuthorizationRequest, IssuerClient
from llmariner.cli.sign_in.loopback_redirect import CallbackServer
from llmariner.cli.sign_in.token_store import SignIn

__all__ = ["CLIENT", "Browser", "RunningIssuer", "Signer", "SigningKey"]

SERVER = Path(__file__).parent / "oidc-provider"
START_SECONDS = 60
_BACK_SECONDS = 20
CLIENT = {
    "client_id": "llmariner",
    "token_endpoint_auth_method": "none",
    "application_type": "native",
    "redirect_uris": ["http://127.0.0.1/callback"],
    "grant_types": [
        "authorization_code",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:device_code",
        "urn:ietf:params:oauth:grant-type:token-exchange",
    ],
}


class SigningKey:
    """An RSA key pair with an id."""

    def __init__(self) -> None:
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = uuid.uuid4().hex[:8]

    @classmethod
    def of(cls, jwk: Mapping[str, Any]) -> SigningKey:
        """A key from its private JSON Web Key."""
        made = cls.__new__(cls)
        private = RSAAlgorithm.from_jwk(dict(jwk))
        assert isinstance(private, rsa.RSAPrivateKey)
        made.private, made.kid = private, str(jwk["kid"])
        return made

    @property
    def public_pem(self) -> bytes:
        """The public half, as anybody may have it."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def jwk(self, *, private: bool) -> dict[str, Any]:
        """As a JSON Web Key."""
        half = self.private if private else self.private.public_key()
        return {**RSAAlgorithm.to_jwk(half, as_dict=True), "kid": self.kid, "use": "sig"}

    def sign(self, claims: Mapping[str, Any], *, algorithm: str = "RS256", kid: str | None = "", **header: Any) -> str:
        """A token with these claims; `kid` None: it names no key."""
        said = {} if kid is None else {"kid": kid or self.kid}
        return jwt.encode(dict(claims), self.private, algorithm=algorithm, headers={**said, **header})


class Signer:
    """An issuer's name and key, which sign any claims of a test."""

    def __init__(self, url: str, key: SigningKey) -> None:
        self.url = url
        self.key = key

    def claims(self, **changed: Any) -> dict[str, Any]:
        """What a good id token says; None in `changed` leaves a claim out."""
        now = int(time.time())
        said: dict[str, Any] = {"iss": self.url, "sub": "alice", "aud": "llmariner", "iat": now, "exp": now + 600}
        said |= {"email": "Alice@Example.org", "email_verified": True, "name": "Alice", "groups": ["staff"]}
        return {name: value for name, value in {**said, **changed}.items() if value is not None}

    def token(self, **changed: Any) -> str:
        """A token that its key signed, with `claims`."""
        return self.key.sign(self.claims(**changed))


class RunningIssuer(Signer):
    """The issuer; `start` and `stop` as often as wanted, always at the same address."""

    def __init__(
        self,
        folder: Path,
        *,
        lifetime: int = 600,
        clients: tuple[dict[str, Any], ...] = (CLIENT,),
        host: str = "127.0.0.1",
        name: str = "",
    ) -> None:
        """`host`: of this machine's, where it listens. `name`: where it is met, if not there."""
        self._folder, self._host = folder, host
        self._process: subprocess.Popen[str] | None = None
        with socket.socket() as probe:
            probe.bind((host, 0))
            self._port = probe.getsockname()[1]
        super().__init__(name or f"http://{host}:{self._port}", SigningKey())
        self.workload_key = SigningKey()
        self.accounts: dict[str, dict[str, Any]] = {}
        self.lifetime = lifetime
        self._clients = clients

    @property
    def listens(self) -> tuple[str, int]:
        """Host and port."""
        return self._host, self._port

    def __enter__(self) -> RunningIssuer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; it remembers nothing of a former run but its keys."""
        file, log = self._folder / "issuer.json", self._folder / "issuer.log"
        self._write(file)
        node = shutil.which("node")
        assert node is not None  # or node_modules had skipped the test
        with log.open("w") as errors:
            command = [node, str(SERVER / "server.mjs"), str(file)]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], START_SECONDS)[0]:
            self.stop()
            raise TimeoutError(f"the issuer did not start: {log.read_text()}")
        line = self._process.stdout.readline()
        assert line == "ready\n", line + log.read_text()

    def set_accounts(self, **accounts: dict[str, Any]) -> None:
        """Add or replace accounts; issued tokens do not change."""
        self.accounts |= accounts
        self._write(self._folder / "issuer.json")

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=30)
            self._process = None

    def rotate(self) -> SigningKey:
        """Replace the signing key, which is no longer published; returns it."""
        old, self.key = self.key, SigningKey()
        self.stop()
        self.start()
        return old

    def _write(self, file: Path) -> None:
        modules = importlib.import_module("..e2e.clients.environments", __package__).node_modules(SERVER)
        settings = {
            "modules": str(modules),
            "issuer": self.url,
            "host": self._host,
            "port": self._port,
            "jwks": {"keys": [self.key.jwk(private=True)]},
            "clients": self._clients,
            "accounts": self.accounts,
            "lifetime": self.lifetime,
            "workloads": {"keys": [self.workload_key.jwk(private=False)]},
        }
        part = file.with_suffix(".part")
        part.write_text(json.dumps(settings))
        part.replace(file)


class Browser:
    """Signs one person in wherever a page of the issuer asks for it."""

    def __init__(self, login: str) -> None:
        self._login = login
        # What a browser does with each new page: no proxy, cookies, and the redirects one by one.
        self._client = httpx2.Client(trust_env=False, timeout=30)

    def visit(self, url: str) -> str:
        """Open a page, fill in every form, follow every redirect. The text of the last page."""
        page = self._client.get(url)
        for _ in range(30):
            if page.is_redirect:
                page = self._client.get(urljoin(str(page.url), page.headers["location"]))
                continue
            form = _form(page.text)
            if form is None:
                return page.text
            action, fields = form
            page = self._client.post(urljoin(str(page.url), action), data=self._filled(fields))
        raise AssertionError(f"no end of pages: {page.text}")

    def signs_in(self, issuer: IssuerClient) -> SignIn:
        """As `llma auth login` does with a browser: authorization code, PKCE, a port of this machine."""
        attempt = AuthorizationRequest.new()
        with ThreadPoolExecutor(1) as thread, CallbackServer(attempt.state) as callback:
            page = thread.submit(self.visit, issuer.authorization_url(attempt, callback.redirect_uri))
            answer = callback.wait(_BACK_SECONDS)
            assert answer is not None, page.result(_BACK_SECONDS)
            made = issuer.exchange_code(attempt, answer, callback.redirect_uri)
            callback.show_success(made.display_name)
        return made

    def close(self) -> None:
        """Forget all cookies."""
        self._client.close()

    def _filled(self, fields: dict[str, str]) -> dict[str, str]:
        mine = {"login": self._login, "password": "any"}
        return {name: mine.get(name, value) for name, value in fields.items()}


def _form(page: str) -> tuple[str, dict[str, str]] | None:
    found = re.search(r'<form[^>]*action="([^"]+)"[^>]*>(.*?)</form>', page, re.S)
    if found is None:
        return None
    names = re.findall(r"<(?:input|button)([^>]*)>", found[2])
    fields = {}
    for attributes in names:
        name, value = (re.search(rf'\b{a}="([^"]*)"', attributes) for a in ("name", "value"))
        if name:
            fields[name[1]] = html.unescape(value[1]) if value else ""
    return html.unescape(found[1]), fields
