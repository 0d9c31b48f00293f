"""Discovery documents are accepted only from the issuer's own address, and clients validate them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmariner.cli.sign_in.issuer import IssuerClient
from llmariner.cli.sign_in.token_store import SignIn
from llmariner.cli.support.errors import CommandError
from llmariner.platform.identity.discovery import DiscoveryError, fetch_signing_keys
from llmariner.settings import IdentitySettings

from .issuer import SigningKey

KEYS = {"keys": [{"kty": "RSA", "kid": "1"}]}


class Pages:
    """Serves documents by path; a text is where the path has moved to."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        pages = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = pages.found[self.path]
                self.send_response(302 if isinstance(found, str) else 200)
                body = b"" if isinstance(found, str) else json.dumps(found).encode()
                if isinstance(found, str):
                    self.send_header("location", found)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.settings = IdentitySettings.load({"LLMARINER_OIDC_ISSUER": self.url})

    def publishes(self, jwks_uri: str) -> None:
        self.found["/.well-known/openid-configuration"] = {"issuer": self.url, "jwks_uri": jwks_uri}


@pytest.fixture
def pages() -> Iterator[Pages]:
    made = Pages()
    serving = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    serving.join()


def test_keys_are_accepted_over_https_or_from_loopback(pages: Pages) -> None:
    pages.found["/keys"] = KEYS
    pages.publishes(f"{pages.url}/keys")
    assert fetch_signing_keys(pages.settings) == KEYS["keys"]
    for uri in ("http://keys.example/keys", "ftp://127.0.0.1/keys", "file:///etc/passwd", "", "//127.0.0.1/keys"):
        pages.publishes(uri)
        with pytest.raises(DiscoveryError, match="no https"):
            fetch_signing_keys(pages.settings)


def test_key_urls_of_other_hosts_are_rejected(pages: Pages) -> None:
    pages.found |= {"/keys": "/others", "/others": KEYS}
    pages.publishes(f"{pages.url}/keys")
    with pytest.raises(DiscoveryError, match="answered 302"):
        fetch_signing_keys(pages.settings)


@pytest.mark.parametrize(
    ("claims", "refusal"),
    [
        ({}, ""),
        ({"sub": "eve"}, "renewed somebody else"),
        ({"aud": "another"}, "for somebody else"),
        ({"aud": ["another", "one"]}, "for somebody else"),
        ({"iss": "http://localhost:1"}, "for somebody else"),
    ],
)
def test_a_refreshed_token_must_have_the_same_subject_and_audience(
    claims: dict[str, Any], refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, mine = SigningKey(), {"iss": "http://127.0.0.1:9", "aud": "llmariner", "sub": "alice"}
    given = {"id_token": key.sign({**mine, **claims}), "refresh_token": "next"}
    monkeypatch.setattr(IssuerClient, "_token", lambda *_: given)
    sign_in = SignIn(mine["iss"], "llmariner", key.sign(mine), "first")
    with IssuerClient(sign_in.issuer, sign_in.client_id) as issuer:
        if not refusal:
            assert issuer.refresh(sign_in).refresh_token == "next"
            return
        with pytest.raises(CommandError, match=refusal):
            issuer.refresh(sign_in)
