"""Resolves the endpoint, credentials, organization and project of a command, with the source of each.

A key that the context file stores with an endpoint is sent to that endpoint only. The administrator's key of the
standalone platform is sent only to a loopback port on which a process of the same user listens. So neither a wrong
`--endpoint` nor another user's process receives a key.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from llmariner.cli import private_files
from llmariner.cli.sign_in.token_store import SignIn, SignInFile
from llmariner.cli.support.errors import CommandError, ExitCode
from llmariner.settings import Secret, StandaloneSettings

__all__ = ["ContextFile", "Target", "mask_key", "resolve_target", "same_origin", "validate_endpoint"]


@dataclass(frozen=True)
class Target:
    """The endpoint and the credentials of requests."""

    endpoint: str
    """Base URL with /v1, no slash at the end."""

    endpoint_source: str

    api_key: Secret

    api_key_source: str | None
    """The source of the key, for messages; None when there is no key for this endpoint."""

    organization: str
    project: str

    sign_in: SignIn | None = None
    """The sign-in whose token is `api_key`, if any."""

    own_listener_only: bool = False
    """Whether the key may be sent only to a process of this user: it is the standalone platform's administrator key."""

    def with_sign_in(self, sign_in: SignIn) -> Target:
        """A copy with the token of a sign-in."""
        return replace(self, api_key=Secret(sign_in.token), sign_in=sign_in, own_listener_only=False)

    def anonymous(self) -> Target:
        """A copy without credentials, organization and project."""
        return replace(self.without_key(), organization="", project="")

    def without_key(self) -> Target:
        """A copy without key or token."""
        return replace(self, api_key=Secret(""), api_key_source=None, sign_in=None, own_listener_only=False)

    def with_project(self, organization: str, project: str) -> Target:
        """A copy for another organization and project; empty: the default ones."""
        return replace(self, organization=organization, project=project)

    def with_key(self, key: str) -> Target:
        """A copy with a key that the user typed."""
        return replace(
            self, api_key=Secret(key), api_key_source="what you typed", sign_in=None, own_listener_only=False
        )

    @property
    def is_local(self) -> bool:
        """Whether the endpoint is a loopback address."""
        return _is_loopback(self.endpoint)

    @property
    def port(self) -> int:
        """The port of the endpoint, 0 if unknown."""
        return _origin(self.endpoint)[2] or 0

    @property
    def is_unencrypted(self) -> bool:
        """Whether requests cross a network without TLS."""
        return self.endpoint.startswith("http://") and not self.is_local


class ContextFile:
    """`$XDG_CONFIG_HOME/llmariner/config.yaml`: the settings of `llma context set`. Mode 0600: it holds a key."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ContextFile:
        """The file for these environment variables; it need not exist."""
        home = environment.get("XDG_CONFIG_HOME")
        return cls((Path(home) if home else Path.home() / ".config") / "llmariner" / "config.yaml")

    def read(self) -> dict[str, Any]:
        """The content of the file, unknown keys included; empty when it does not exist. CommandError for an invalid file."""
        import yaml

        try:
            content = yaml.safe_load(private_files.read(self.path))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise self._unusable("is not valid YAML") from error
        if not isinstance(content or {}, dict):
            raise self._unusable("is not a mapping of settings")
        return dict(content or {})

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace the file atomically, with mode 0600."""
        try:
            private_files.replace(self.path, content)
        except OSError as error:
            raise self._unusable(f"cannot be written: {error.strerror}") from error

    def _unusable(self, why: str) -> CommandError:
        return CommandError(
            ExitCode.USAGE,
            f"{self.path} {why}.",
            next_step="mend or remove the file, then `llma context set`.",
        )


def resolve_target(environment: Mapping[str, str], *, endpoint: str | None = None) -> Target:
    """The target: from `--endpoint`, else the environment, else the context file, else this machine's platform."""
    file = ContextFile.from_environment(environment)
    context = file.read()
    home = _home_settings(environment)
    stored_endpoint = str(context.get("endpoint") or "")
    chosen, source = next(
        (value, source)
        for value, source in (
            (endpoint, "--endpoint"),
            (environment.get("LLMARINER_BASE_URL"), "LLMARINER_BASE_URL"),
            (stored_endpoint, str(file.path)),
            (f"{_default_base_url(environment, home)}/v1", "the default"),
        )
        if value
    )
    url = validate_endpoint(chosen, source)
    tokens = SignInFile.from_environment(environment)
    sign_in = None if environment.get("LLMARINER_API_KEY", "").strip() else tokens.get(url)
    key, key_source = _key(environment, context, url, file.path)
    if sign_in is not None:
        key, key_source = Secret(sign_in.token), f"your sign-in ({tokens.path})"
    admin_key = Secret("") if key_source else _admin_key(home.root / "admin.key", url)
    if admin_key.reveal():
        key, key_source = admin_key, str(home.root / "admin.key")
    return Target(
        endpoint=url,
        endpoint_source=source,
        api_key=key,
        api_key_source=key_source,
        organization=str(context.get("organization") or ""),
        project=str(context.get("project") or ""),
        sign_in=sign_in,
        own_listener_only=bool(admin_key.reveal()),
    )


def _default_base_url(environment: Mapping[str, str], home: StandaloneSettings) -> str:
    return home.base_url if environment.get("LLMARINER_HOST") else f"http://localhost:{home.port}"


def mask_key(key: str) -> str:
    """The first 7 and last 2 characters of a key, enough to recognize it."""
    return f"{key[:7]}…{key[-2:]}" if len(key) >= 20 else "*" * 8


def same_origin(one: str, other: str) -> bool:
    """Whether two URLs have the same scheme, host and port, so that both may receive the same key."""
    return _origin(one) == _origin(other)


def _key(
    environment: Mapping[str, str], context: Mapping[str, Any], endpoint: str, file: Path
) -> tuple[Secret, str | None]:
    if key := environment.get("LLMARINER_API_KEY", "").strip():
        return Secret(key), "LLMARINER_API_KEY"
    stored_endpoint = str(context.get("endpoint") or "")
    if context.get("api_key") and (not stored_endpoint or same_origin(stored_endpoint, endpoint)):
        return Secret(str(context["api_key"])), str(file)
    return Secret(""), None


def _admin_key(file: Path, endpoint: str) -> Secret:
    """The administrator's key of this user's standalone platform, if the endpoint is certainly on this machine."""
    host = _origin(endpoint)[1]
    if not _is_loopback(endpoint) or host.endswith(".localhost"):  # DNS may resolve names below localhost elsewhere
        return Secret("")
    try:
        return Secret(file.read_text(encoding="utf-8").strip())
    except OSError:
        return Secret("")  # this user has no standalone platform


def _home_settings(environment: Mapping[str, str]) -> StandaloneSettings:
    try:
        return StandaloneSettings.load(environment)
    except ValueError as error:
        raise CommandError(ExitCode.USAGE, str(error), next_step="correct or unset the variable.") from error


def validate_endpoint(text: str, source: str) -> str:
    """The URL without trailing slash. CommandError, which names `source`, for an invalid one."""
    url = text.strip().rstrip("/")
    if _origin(url)[0] not in ("http", "https") or not _origin(url)[1]:
        raise CommandError(
            ExitCode.USAGE,
            f"{text!r} (from {source}) is not an http or https URL.",
            next_step="give one such as http://localhost:8080/v1.",
        )
    return url


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", "", None


def _is_loopback(url: str) -> bool:
    host = _origin(url)[1]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
