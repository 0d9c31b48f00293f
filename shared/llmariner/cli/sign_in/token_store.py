"""Who signed in to which platform, and with what tokens: a file of its own, 0600, beside the context file.

Tokens belong to one platform's server and are sent to no other.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmariner.cli import private_files
from llmariner.cli.support.errors import CommandError, ExitCode

__all__ = ["SignIn", "SignInFile", "decode_claims", "server_origin"]


@dataclass(frozen=True)
class SignIn:
    """One sign-in. `token` is what the platform is shown."""

    issuer: str
    client_id: str
    token: str
    refresh_token: str = ""
    token_file: str = ""
    """Of a workload: where its own issuer keeps its token fresh."""
    connector: str = ""
    subject_token_type: str = ""

    @property
    def claims(self) -> dict[str, Any]:
        """What the token says; whether it is true the platform decides."""
        return decode_claims(self.token)

    @property
    def expires_at(self) -> int:
        """Seconds since 1970; 0 for a token that does not say."""
        at = self.claims.get("exp")
        return int(at) if isinstance(at, int | float) and math.isfinite(at) else 0

    @property
    def display_name(self) -> str:
        """For people: the e-mail, else what else the token says."""
        claims = self.claims
        return str(claims.get("email") or claims.get("preferred_username") or claims.get("sub") or "somebody")


class SignInFile:
    """`$XDG_CONFIG_HOME/llmariner/token.yaml`: a sign-in per server."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> SignInFile:
        """The file that belongs to this environment, whether it exists or not."""
        home = environment.get("XDG_CONFIG_HOME")
        return cls((Path(home) if home else Path.home() / ".config") / "llmariner" / "token.yaml")

    def get(self, endpoint: str) -> SignIn | None:
        """The sign-in for that endpoint's server."""
        found = self._read().get(server_origin(endpoint))
        known = {field.name for field in fields(SignIn)}
        if not isinstance(found, dict) or not {"issuer", "client_id", "token"} <= found.keys():
            return None
        return SignIn(**{name: str(value) for name, value in found.items() if name in known})

    def put(self, endpoint: str, sign_in: SignIn | None) -> None:
        """Remember a sign-in, or (None) forget it."""
        content = self._read()
        content.pop(server_origin(endpoint), None)
        if sign_in is not None:
            content[server_origin(endpoint)] = {name: value for name, value in asdict(sign_in).items() if value}
        self._write(content)

    def other_servers(self, endpoint: str, issuer: str, client_id: str) -> list[str]:
        """Other servers that somebody is signed in to by the same issuer and client."""
        return sorted(
            server
            for server, found in self._read().items()
            if server != server_origin(endpoint)
            and isinstance(found, dict)
            and (found.get("issuer"), found.get("client_id")) == (issuer, client_id)
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """While the block runs no other command renews a token: a refresh token may be good for one use only."""
        import fcntl

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._unusable(f"cannot be locked: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():  # as for who never signed in: YAML's parser costs more than the whole look
            return {}
        import yaml

        try:
            content = yaml.safe_load(private_files.read(self.path))
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise self._unusable("is not valid YAML") from error
        return dict(content) if isinstance(content, dict) else {}

    def _write(self, content: Mapping[str, Any]) -> None:
        try:
            private_files.replace(self.path, content, sort_keys=True)
        except OSError as error:
            raise self._unusable(f"cannot be written: {error.strerror}") from error

    def _unusable(self, why: str) -> CommandError:
        return CommandError(ExitCode.USAGE, f"{self.path} {why}.", next_step="remove the file, then `llma auth login`.")


def decode_claims(token: str) -> dict[str, Any]:
    """The claims of a signed token, unchecked; empty for what is none."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def server_origin(endpoint: str) -> str:
    """The server of an endpoint, as one word: `https://api.example.org:443`."""
    parts = urlsplit(endpoint)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"
