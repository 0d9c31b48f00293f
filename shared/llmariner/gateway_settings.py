"""Settings of the token path, and the secrets of an installation; `llmariner.settings` exports them.

A module of its own: the functions of the token path load no other settings.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from llmariner.environment import Environment, Secret, read_networks, read_number, read_secret
from llmariner.inference_settings import InferenceSettings

__all__ = ["ControlPlaneSettings", "GatewaySettings", "SecretSettings"]


@dataclass(frozen=True)
class SecretSettings:
    """Secrets that all functions of an installation share."""

    pepper: Secret = field(default_factory=lambda: Secret(""))
    """`LLMARINER_PEPPER` or `LLMARINER_PEPPER_FILE`: key of the HMAC by which API keys are stored."""

    service: Secret = field(default_factory=lambda: Secret(""))
    """`LLMARINER_SERVICE_SECRET` or `…_FILE`: signs requests between functions, and links to files."""

    previous_service: Secret = field(default_factory=lambda: Secret(""))
    """`LLMARINER_PREVIOUS_SERVICE_SECRET` or `…_FILE`: the one before, whose links to files stay valid. Empty: none."""

    @classmethod
    def load(cls, env: Environment) -> SecretSettings:
        """Read from a mapping. Raises ValueError if a secret is missing or shorter than 32 characters."""
        loaded = cls(
            pepper=read_secret(env, "LLMARINER_PEPPER"),
            service=read_secret(env, "LLMARINER_SERVICE_SECRET"),
            previous_service=read_secret(env, "LLMARINER_PREVIOUS_SERVICE_SECRET"),
        )
        for name, value in (
            ("LLMARINER_PEPPER", loaded.pepper),
            ("LLMARINER_SERVICE_SECRET", loaded.service),
            ("LLMARINER_PREVIOUS_SERVICE_SECRET", loaded.previous_service or loaded.service),
        ):
            if len(value.reveal()) < 32:
                raise ValueError(
                    f"{name} (or {name}_FILE) must hold at least 32 characters; make one with `openssl rand -hex 32`."
                )
        return loaded

    @property
    def of_links(self) -> tuple[Secret, ...]:
        """The secrets of links to files: the first signs, each of them verifies."""
        return (self.service, self.previous_service) if self.previous_service else (self.service,)

    @staticmethod
    def generate() -> str:
        """A new secret of 256 random bits."""
        import secrets

        return secrets.token_hex(32)


@dataclass(frozen=True)
class ControlPlaneSettings:
    """How a function on the token path reaches the control plane."""

    url: str = ""
    """`LLMARINER_CONTROL_URL`: base URL of the `internal_gateway` function."""

    @classmethod
    def load(cls, env: Environment) -> ControlPlaneSettings:
        """Read from a mapping. Raises ValueError if the URL is not an HTTP URL."""
        url = env.get("LLMARINER_CONTROL_URL", "").rstrip("/")
        if not url.startswith("http://"):
            raise ValueError("LLMARINER_CONTROL_URL must be the http:// URL of the internal_gateway function.")
        return cls(url=url)


@dataclass(frozen=True)
class GatewaySettings:
    """Limits and timeouts of the token path. Times are in seconds."""

    body_limit: int = 8 * 1024 * 1024
    """`LLMARINER_BODY_LIMIT`: maximum bytes of a request body. Default 8 MiB."""

    wait_budget: float = 60.0
    """`LLMARINER_WAIT_SECONDS`: default wait for a sleeping model, for a request that does not stream."""

    wait_limit: float = 900.0
    """`LLMARINER_WAIT_LIMIT_SECONDS`: the longest wait that a caller may request, and the wait of a stream."""

    heartbeat: float = 5.0
    """`LLMARINER_HEARTBEAT_SECONDS`: interval of comments in a stream that waits."""

    waiting_room_per_model: int = 2000
    """`LLMARINER_ROOM_PER_MODEL`: requests that may wait for one model in this gateway instance."""

    waiting_room_per_tenant: int = 1000
    """`LLMARINER_ROOM_PER_TENANT`: how many of these may belong to one project."""

    body_buffer_bytes: int = 64 * 1024 * 1024
    """`LLMARINER_ROOM_BYTES`: bytes of request bodies that this instance buffers until engines respond. Default 64 MiB."""

    body_buffer_bytes_per_tenant: int = 32 * 1024 * 1024
    """`LLMARINER_ROOM_BYTES_PER_TENANT`: how many of these may belong to one project. Default 32 MiB."""

    response_buffer_bytes: int = 96 * 1024 * 1024
    """`LLMARINER_ANSWER_BYTES`: bytes of large responses that this instance buffers until their delivery. Default 96 MiB."""

    write_timeout: float = 60.0
    """`LLMARINER_WRITE_TIMEOUT_SECONDS`: how long a client may read nothing of a pending response."""

    stream_idle_timeout: float = 600.0
    """`LLMARINER_ENGINE_SILENCE_SECONDS`: how long an engine may send nothing in a stream."""

    engine_timeout: float = 14_400.0
    """`LLMARINER_ENGINE_LIMIT_SECONDS`: how long an engine may take for a response that is not streamed."""

    requests_per_minute: int = 6000
    """`LLMARINER_REQUESTS_PER_MINUTE`: of a key without a limit of its own, over all gateway instances."""

    tokens_per_minute: int = 10_000_000
    """`LLMARINER_TOKENS_PER_MINUTE`: of such a key, likewise."""

    concurrent_requests: int = 1000
    """`LLMARINER_CONCURRENT_REQUESTS`: concurrent requests of such a key, including those that wait."""

    unknown_keys_per_minute: int = 120
    """`LLMARINER_UNKNOWN_KEYS_PER_MINUTE`: failed key lookups of one client address, per instance."""

    trusted_proxies: tuple[str, ...] = ()
    """`LLMARINER_TRUSTED_PROXIES`: networks (CIDR) of proxies whose X-Forwarded-For header is trusted."""

    functions_url: str = ""
    """`LLMARINER_INFERENCE_URL`: where the tool `file_search` finds the routes of vector stores; see `InferenceSettings`."""

    @property
    def default_limit(self) -> dict[str, int]:
        """The limit of a key without one of its own."""
        return {
            "requests_per_minute": self.requests_per_minute,
            "tokens_per_minute": self.tokens_per_minute,
            "concurrent_requests": self.concurrent_requests,
        }

    @classmethod
    def load(cls, env: Environment) -> GatewaySettings:
        """Read from a mapping. Raises ValueError that names the invalid variable."""
        body_limit = int(read_number(env, "LLMARINER_BODY_LIMIT", cls.body_limit, minimum=1024))
        # A single request of the maximum size must fit.
        per_tenant = int(
            read_number(env, "LLMARINER_ROOM_BYTES_PER_TENANT", max(cls.body_buffer_bytes_per_tenant, body_limit))
        )
        body_buffer_bytes = int(read_number(env, "LLMARINER_ROOM_BYTES", max(cls.body_buffer_bytes, per_tenant)))
        if per_tenant < body_limit or body_buffer_bytes < per_tenant:
            raise ValueError(
                "LLMARINER_ROOM_BYTES must be at least LLMARINER_ROOM_BYTES_PER_TENANT, and that at least "
                f"LLMARINER_BODY_LIMIT, not {body_buffer_bytes}, {per_tenant} and {body_limit}."
            )
        return cls(
            body_limit=body_limit,
            body_buffer_bytes=body_buffer_bytes,
            body_buffer_bytes_per_tenant=per_tenant,
            response_buffer_bytes=int(
                read_number(env, "LLMARINER_ANSWER_BYTES", cls.response_buffer_bytes, minimum=1024 * 1024)
            ),
            write_timeout=read_number(env, "LLMARINER_WRITE_TIMEOUT_SECONDS", cls.write_timeout, minimum=0.1),
            stream_idle_timeout=read_number(
                env, "LLMARINER_ENGINE_SILENCE_SECONDS", cls.stream_idle_timeout, minimum=0.1
            ),
            engine_timeout=read_number(env, "LLMARINER_ENGINE_LIMIT_SECONDS", cls.engine_timeout, minimum=0.1),
            wait_budget=read_number(env, "LLMARINER_WAIT_SECONDS", cls.wait_budget),
            wait_limit=read_number(env, "LLMARINER_WAIT_LIMIT_SECONDS", cls.wait_limit),
            heartbeat=read_number(env, "LLMARINER_HEARTBEAT_SECONDS", cls.heartbeat, minimum=0.05),
            waiting_room_per_model=int(
                read_number(env, "LLMARINER_ROOM_PER_MODEL", cls.waiting_room_per_model, minimum=1)
            ),
            waiting_room_per_tenant=int(
                read_number(env, "LLMARINER_ROOM_PER_TENANT", cls.waiting_room_per_tenant, minimum=1)
            ),
            requests_per_minute=int(
                read_number(env, "LLMARINER_REQUESTS_PER_MINUTE", cls.requests_per_minute, minimum=1)
            ),
            tokens_per_minute=int(read_number(env, "LLMARINER_TOKENS_PER_MINUTE", cls.tokens_per_minute, minimum=1)),
            concurrent_requests=int(
                read_number(env, "LLMARINER_CONCURRENT_REQUESTS", cls.concurrent_requests, minimum=1)
            ),
            unknown_keys_per_minute=int(
                read_number(env, "LLMARINER_UNKNOWN_KEYS_PER_MINUTE", cls.unknown_keys_per_minute, minimum=1)
            ),
            trusted_proxies=read_networks(env, "LLMARINER_TRUSTED_PROXIES"),
            functions_url=InferenceSettings.load(env).url,
        )
