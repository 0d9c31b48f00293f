"""The file of sign-ins by server, with mode 0600, next to the context file.

A token is sent only to the server that it is stored for.
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
    """One sign-in. `token` is the bearer token for the platform."""

    issuer: str
    client_id: str
    token: str
    refresh_token: str = ""
    token_file: str = ""
    """For workloads: the file in which their own issuer renews their token."""
    connector: str = ""
    subject_token_type: str = ""

    @property
    def claims(self) -> dict[str, Any]:
        """The claims of the token, not verified: the platform verifies them."""
        return decode_claims(self.token)

    @property
    def expires_at(self) -> int:
        """Unix time in seconds; 0 for a token without expiry."""
        at = self.claims.get("exp")
        return int(at) if isinstance(at, int | float) and math.isfinite(at) else 0

    @property
    def display_name(self) -> str:
        """The user's e-mail, else user name, else subject."""
        claims = self.claims
        return str(claims.get("email") or claims.get("preferred_username") or claims.get("sub") or "somebody")


class SignInFile:
    """`$XDG_CONFIG_HOME/llmariner/token.yaml`: one sign-in per server."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> SignInFile:
        """The file for these environment variables; it need not exist."""
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
        """Store a sign-in, or delete it (None)."""
        content = self._read()
        content.pop(server_origin(endpoint), None)
        if sign_in is not None:
            content[server_origin(endpoint)] = {name: value for name, value in asdict(sign_in).items() if value}
        self._write(content)

    def other_servers(self, endpoint: str, issuer: str, client_id: str) -> list[str]:
        """Other servers with a sign-in by the same issuer and client."""
        return sorted(
            server
            for server, found in self._read().items()
            if server != server_origin(endpoint)
            and isinstance(found, dict)
            and (found.get("issuer"), found.get("client_id")) == (issuer, client_id)
        )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold an exclusive lock across processes: a refresh token may be valid for one use only."""
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
        if not self.path.is_file():  # the common case; importing YAML costs more than this check
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
    """The claims of a JWT without verification; empty for anything else."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def server_origin(endpoint: str) -> str:
    """The origin of an endpoint: `https://api.example.org:443`."""
    parts = urlsplit(endpoint)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"
