"""An OAuth 2.0 and OpenID Connect client of the token issuer: a public client with PKCE.

RFC 6749 (code, refresh), 7636 (PKCE), 8252 (native clients), 8628 (devices), 8693 (exchange), 7009 (revocation).
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import urlencode, urlsplit

from llmariner.cli.sign_in.token_store import SignIn, decode_claims
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.cli.support.response_bodies import BodyTooLarge, parse_json, read_body

__all__ = ["AuthorizationRequest", "IssuerClient", "OAuthError"]

_TIMEOUT_SECONDS = 20.0
_MAX_BYTES = 1 << 20
_MAX_POLL_SECONDS = 60.0
_MAX_DEVICE_WAIT_SECONDS = 1800.0
_DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_TOKEN_EXCHANGE_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
_ID_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:id_token"


class OAuthError(Exception):
    """An OAuth error response, such as `invalid_grant`."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(f"{error}: {description}" if description else error)
        self.error = error


@dataclass(frozen=True)
class AuthorizationRequest:
    """The random values that bind an authorization response to its request."""

    state: str
    nonce: str
    code_verifier: str

    @classmethod
    def new(cls) -> AuthorizationRequest:
        """A request with 256 random bits per value."""
        return cls(*(secrets.token_urlsafe(32) for _ in range(3)))

    @property
    def code_challenge(self) -> str:
        """The S256 challenge of the verifier (RFC 7636)."""
        digest = hashlib.sha256(self.code_verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class IssuerClient:
    """A client of one issuer. Raises `OAuthError` for OAuth error responses, `CommandError` for all other failures."""

    def __init__(self, issuer: str, client_id: str, scopes: list[str] | None = None) -> None:
        import httpx2

        if not _is_safe(issuer):
            raise CommandError(
                ExitCode.DENIED,
                f"the platform names the issuer {issuer!r}, which is no https:// URL.",
                next_step="do not sign in there; ask the platform's administrator.",
            )
        plain = issuer.startswith("http://")
        self.issuer = issuer
        self.client_id = client_id
        self._scopes = scopes or []
        self._client = httpx2.Client(timeout=_TIMEOUT_SECONDS, trust_env=not plain, verify=not plain)
        self._metadata: dict[str, Any] | None = None

    def __enter__(self) -> IssuerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @property
    def metadata(self) -> dict[str, Any]:
        """The discovery document, fetched once. CommandError where it names another issuer."""
        if self._metadata is None:
            response = self._send("GET", f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            found = response.document if response.is_success else {}
            if found.get("issuer") != self.issuer:
                raise self._protocol_error(f"does not say of itself that it is {self.issuer}")
            self._metadata = found
        return self._metadata

    @property
    def supports_device_flow(self) -> bool:
        """Whether the issuer supports the device authorization grant (RFC 8628)."""
        return bool(self.metadata.get("device_authorization_endpoint"))

    @property
    def scope(self) -> str:
        """The requested scopes that the issuer supports; some issuers reject a request with an unsupported scope."""
        supported = self.metadata.get("scopes_supported")
        return " ".join(scope for scope in self._scopes if not isinstance(supported, list) or scope in supported)

    def authorization_url(self, request: AuthorizationRequest, redirect_uri: str) -> str:
        """The URL to open in a browser."""
        parameters = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "scope": self.scope,
            "state": request.state,
            "nonce": request.nonce,
            "code_challenge": request.code_challenge,
            "code_challenge_method": "S256",
        }
        # Issuers grant a refresh token only with consent (OpenID Connect Core 1.0, 11).
        if "offline_access" in self.scope.split():
            parameters["prompt"] = "consent"
        endpoint = self._endpoint("authorization_endpoint")
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(parameters)}"

    def exchange_code(self, request: AuthorizationRequest, answer: Mapping[str, str], redirect_uri: str) -> SignIn:
        """Exchange the authorization code. `answer` is the query of the redirect, whose state was verified."""
        if error := answer.get("error"):
            raise OAuthError(error, answer.get("error_description", ""))
        answered_by = answer.get("iss")
        if answered_by != self.issuer and (
            answered_by or self.metadata.get("authorization_response_iss_parameter_supported")
        ):
            raise self._protocol_error(f"is not who answered (that was {answered_by})")  # RFC 9207
        grant = {"grant_type": "authorization_code", "code": answer.get("code", ""), "redirect_uri": redirect_uri}
        return self._validated_sign_in(
            self._token({**grant, "code_verifier": request.code_verifier}), nonce=request.nonce
        )

    def device_sign_in(self, show: Callable[[str, str, str], None]) -> SignIn:
        """Poll until the user signs in on another device. `show` gets the URL, the code, and a URL with the code."""
        parameters = {"client_id": self.client_id, "scope": self.scope}
        response = self._send("POST", self._endpoint("device_authorization_endpoint"), parameters)
        device = self._token_response(response)
        show(
            str(device.get("verification_uri", "")),
            str(device.get("user_code", "")),
            str(device.get("verification_uri_complete") or ""),
        )
        if not isinstance(code := device.get("device_code"), str):
            raise self._protocol_error("began a sign-in on another device without a device_code")
        interval = _seconds(device.get("interval"), 5, maximum=_MAX_POLL_SECONDS)
        end = time.monotonic() + _seconds(device.get("expires_in"), 300, maximum=_MAX_DEVICE_WAIT_SECONDS)
        while time.monotonic() < end:
            time.sleep(interval)
            try:
                return self._validated_sign_in(self._token({"grant_type": _DEVICE_CODE_GRANT, "device_code": code}))
            except OAuthError as refused:
                if refused.error == "slow_down":
                    interval = min(interval + 5, _MAX_POLL_SECONDS)
                elif refused.error != "authorization_pending":
                    raise
        raise OAuthError("expired_token", "nobody signed in in time")

    def exchange_token(self, subject_token: str, subject_token_type: str, connector: str) -> SignIn:
        """Exchange a workload's token for one of this issuer (RFC 8693). `connector`: Dex' connector for the token."""
        granted = self._token({
            "grant_type": _TOKEN_EXCHANGE_GRANT,
            "subject_token": subject_token,
            "subject_token_type": f"urn:ietf:params:oauth:token-type:{subject_token_type}",
            "requested_token_type": _ID_TOKEN_TYPE,
            "scope": " ".join(scope for scope in self.scope.split() if scope != "offline_access"),
            **({"connector_id": connector} if connector else {}),
        })  # fmt: skip
        return self._validated_sign_in({**granted, "id_token": granted.get("access_token")})

    def refresh(self, sign_in: SignIn) -> SignIn:
        """A new token by the refresh token. OAuthError where that has expired or was revoked."""
        granted = self._token({"grant_type": "refresh_token", "refresh_token": sign_in.refresh_token})
        refreshed = self._validated_sign_in(granted)
        if refreshed.claims.get("sub") != sign_in.claims.get("sub"):
            raise self._protocol_error("renewed somebody else's sign-in")
        refresh_token = refreshed.refresh_token or sign_in.refresh_token
        return SignIn(refreshed.issuer, refreshed.client_id, refreshed.token, refresh_token)

    def revoke(self, sign_in: SignIn) -> bool:
        """Revoke the refresh token; False where the issuer has no revocation endpoint, or there is no refresh token."""
        endpoint = self.metadata.get("revocation_endpoint")
        if not endpoint or not sign_in.refresh_token:
            return False
        parameters = {"token": sign_in.refresh_token, "token_type_hint": "refresh_token", "client_id": self.client_id}
        response = self._send("POST", self._endpoint("revocation_endpoint"), parameters)
        return response.is_success

    def _token(self, grant: Mapping[str, str]) -> dict[str, Any]:
        parameters = {**grant, "client_id": self.client_id}
        return self._token_response(self._send("POST", self._endpoint("token_endpoint"), parameters))

    def _validated_sign_in(self, granted: Mapping[str, Any], *, nonce: str | None = None) -> SignIn:
        """Validate the ID token as a client must that received it over TLS (OpenID Connect Core, 3.1.3.7)."""
        token = granted.get("id_token")
        claims = decode_claims(token) if isinstance(token, str) else {}
        audience = claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience]
        if claims.get("iss") != self.issuer or self.client_id not in audiences:
            raise self._protocol_error("gave no id token, or one that is for somebody else")
        if nonce is not None and claims.get("nonce") != nonce:
            raise self._protocol_error("gave the token of another attempt to sign in")
        return SignIn(self.issuer, self.client_id, str(token), str(granted.get("refresh_token") or ""))

    def _token_response(self, response: _Response) -> dict[str, Any]:
        found = response.document
        if response.is_success and found:
            return found
        if "error" in found:
            raise OAuthError(str(found["error"]), str(found.get("error_description") or ""))
        raise self._protocol_error(f"answered {response.status} and no token")

    def _endpoint(self, name: str) -> str:
        url = str(self.metadata.get(name) or "")
        if not _is_safe(url):
            raise self._protocol_error(f"has no {name}" if not url else f"names a {name} without https")
        return url

    def _send(self, method: str, url: str, form: Mapping[str, str] | None = None) -> _Response:
        import httpx2

        try:
            with self._client.stream(method, url, data=dict(form) if form else None) as response:
                return _Response(response.status_code, response.is_success, read_body(response, _MAX_BYTES))
        except BodyTooLarge as error:
            raise self._protocol_error(f"answered with {error}, which no sign-in needs") from error
        except (httpx2.TransportError, httpx2.DecodingError, httpx2.InvalidURL) as error:
            raise CommandError(
                ExitCode.UNREACHABLE,
                f"cannot reach the issuer {self.issuer}: {error}.",
                next_step="check the network; if its certificate is your organization's own, set SSL_CERT_FILE.",
            ) from error

    def _protocol_error(self, why: str) -> CommandError:
        return CommandError(
            ExitCode.SERVER_ERROR,
            f"the issuer {self.issuer} {why}.",
            next_step="try `llma auth login` again; if it stays so, tell the platform's administrator.",
        )


@dataclass(frozen=True)
class _Response:
    status: int
    is_success: bool
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The object in the body; empty where it has none."""
        try:
            found = parse_json(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def _seconds(value: Any, default: float, *, maximum: float) -> float:
    """The issuer's number of seconds, at most `maximum`; the default where it is not a positive number."""
    valid = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return min(float(value), maximum) if valid else default


def _is_safe(url: str) -> bool:
    """Whether secrets may be sent there: over https, or to a loopback address."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as an address in brackets that is none
        return False
    host = parts.hostname or ""
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = host == "localhost" or host.endswith(".localhost")
    return bool(host) and (parts.scheme == "https" or (parts.scheme == "http" and is_loopback))
