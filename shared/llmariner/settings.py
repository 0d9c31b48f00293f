"""Settings, read from the environment here (by `environment`) and nowhere else.

Each concern is one frozen dataclass, built whole from a mapping (tests pass a dict) and validated at once, so that a
wrong value ends the start with a sentence and not a request with a traceback. Secrets hide in a repr.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmariner.environment import Environment, Secret, environment, read_http_url, read_networks, read_number, read_secret
from llmariner.identity_settings import IdentitySettings
from llmariner.weight_locations import validate_locations

__all__ = [
    "BrokerSettings",
    "ClusterSettings",
    "ControlPlaneSettings",
    "DatabaseSettings",
    "Environment",
    "GatewaySettings",
    "StandaloneSettings",
    "IdentitySettings",
    "KServeSettings",
    "ModelSettings",
    "Secret",
    "SecretSettings",
    "ServingSettings",
    "UsageSettings",
    "environment",
]


@dataclass(frozen=True)
class StandaloneSettings:
    """Where the one-machine platform lives and listens."""

    root: Path = Path.home() / ".llmariner"
    """`LLMARINER_HOME`: database, secrets, logs, model registry. Default `~/.llmariner`."""

    cache: Path = Path.home() / ".cache" / "llmariner"
    """`LLMARINER_CACHE`: engine environments and model weights, keyed by a hash of their pins; safe to delete."""

    host: str = "127.0.0.1"
    """`LLMARINER_HOST`: address to listen on. The platform speaks plain HTTP: leave it on loopback."""

    port: int = 8080
    """`LLMARINER_PORT`."""

    @property
    def base_url(self) -> str:
        """Where the platform answers programs on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - all addresses: any will do
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @classmethod
    def load(cls, env: Environment) -> StandaloneSettings:
        """Read from a mapping. ValueError says which variable is wrong."""
        cache_home = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        port = int(read_number(env, "LLMARINER_PORT", 8080, minimum=1))
        if port > 65535:
            raise ValueError(f"LLMARINER_PORT must be at most 65535, not {port}.")
        return cls(
            root=Path(env.get("LLMARINER_HOME") or Path.home() / ".llmariner").expanduser().absolute(),
            cache=Path(env.get("LLMARINER_CACHE") or cache_home / "llmariner").expanduser().absolute(),
            host=(env.get("LLMARINER_HOST") or "127.0.0.1").strip("[]"),
            port=port,
        )


@dataclass(frozen=True)
class DatabaseSettings:
    """Which database, and how many connections this process may hold."""

    url: str
    """`LLMARINER_DATABASE_URL`: `sqlite:///path` or `postgresql+psycopg://user@host/name`."""

    pool_size: int = 5
    """`LLMARINER_DATABASE_POOL`: connections kept open. Functions are many and short-lived, so few each."""

    connect_seconds: float = 5.0
    """`LLMARINER_DATABASE_CONNECT_SECONDS`: how long a new connection may take, and the wait for one of the pool."""

    lock_seconds: float = 10.0
    """`LLMARINER_DATABASE_LOCK_SECONDS`: how long a statement waits for what another transaction has locked."""

    statement_seconds: float = 30.0
    """`LLMARINER_DATABASE_STATEMENT_SECONDS`: how long one statement may take. PostgreSQL only, as the next."""

    idle_seconds: float = 60.0
    """`LLMARINER_DATABASE_IDLE_SECONDS`: how long a transaction may wait for its next statement."""

    @classmethod
    def load(cls, env: Environment) -> DatabaseSettings:
        """Read from a mapping. ValueError when no database is named."""
        url = env.get("LLMARINER_DATABASE_URL", "")
        if not url:
            raise ValueError(
                "LLMARINER_DATABASE_URL is not set: sqlite:///path or postgresql+psycopg://user@host/name."
            )
        return cls(
            url=url,
            pool_size=int(read_number(env, "LLMARINER_DATABASE_POOL", 5, minimum=1)),
            connect_seconds=read_number(env, "LLMARINER_DATABASE_CONNECT_SECONDS", cls.connect_seconds, minimum=1),
            lock_seconds=read_number(env, "LLMARINER_DATABASE_LOCK_SECONDS", cls.lock_seconds, minimum=0.1),
            statement_seconds=read_number(env, "LLMARINER_DATABASE_STATEMENT_SECONDS", cls.statement_seconds, minimum=0.1),
            idle_seconds=read_number(env, "LLMARINER_DATABASE_IDLE_SECONDS", cls.idle_seconds, minimum=1),
        )


@dataclass(frozen=True)
class SecretSettings:
    """Secrets that every function of one installation shares."""

    pepper: Secret = field(default_factory=lambda: Secret(""))
    """`LLMARINER_PEPPER` or `LLMARINER_PEPPER_FILE`: keys the hash under which API keys are stored."""

    service: Secret = field(default_factory=lambda: Secret(""))
    """`LLMARINER_SERVICE_SECRET` or `…_FILE`: signs calls between functions."""

    @classmethod
    def load(cls, env: Environment) -> SecretSettings:
        """Read from a mapping. ValueError when one is missing or too short to be a secret."""
        loaded = cls(pepper=read_secret(env, "LLMARINER_PEPPER"), service=read_secret(env, "LLMARINER_SERVICE_SECRET"))
        for name, value in (
            ("LLMARINER_PEPPER", loaded.pepper),
            ("LLMARINER_SERVICE_SECRET", loaded.service),
        ):
            if len(value.reveal()) < 32:
                raise ValueError(
                    f"{name} (or {name}_FILE) must hold at least 32 characters; make one with `openssl rand -hex 32`."
                )
        return loaded

    @staticmethod
    def generate() -> str:
        """A new secret of 256 random bits."""
        return secrets.token_hex(32)


@dataclass(frozen=True)
class ControlPlaneSettings:
    """How a function on the token path reaches the control function."""

    url: str = ""
    """`LLMARINER_CONTROL_URL`: base URL of `internal_gateway`."""

    @classmethod
    def load(cls, env: Environment) -> ControlPlaneSettings:
        """Read from a mapping. ValueError when it is not an http URL."""
        url = env.get("LLMARINER_CONTROL_URL", "").rstrip("/")
        if not url.startswith("http://"):
            raise ValueError("LLMARINER_CONTROL_URL must be the http:// URL of the internal_gateway function.")
        return cls(url=url)


@dataclass(frozen=True)
class BrokerSettings:
    """Where events go on a cluster."""

    url: str = ""
    """`LLMARINER_BROKER_URL`: ingress of the Knative Broker. Empty: the local home's dispatcher delivers."""

    token_file: Path | None = None
    """`LLMARINER_BROKER_TOKEN_FILE`: who we are, to a Broker that asks: a token that Kubernetes keeps fresh."""

    @classmethod
    def load(cls, env: Environment) -> BrokerSettings:
        """Read from a mapping. ValueError when it is not an http URL."""
        url = env.get("LLMARINER_BROKER_URL", "")
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("LLMARINER_BROKER_URL must be the http:// URL of the Broker's ingress.")
        token = env.get("LLMARINER_BROKER_TOKEN_FILE", "")
        return cls(url=url, token_file=Path(token) if token else None)


@dataclass(frozen=True)
class ClusterSettings:
    """Which Kubernetes cluster, and where in it our objects stand."""

    kubeconfig: Path | None = None
    """`LLMARINER_KUBECONFIG`: a kubeconfig, its current context. None: the pod's own ServiceAccount."""

    namespace: str = "llmariner"
    """`LLMARINER_NAMESPACE`: where the platform is installed."""

    context: str | None = None
    """A context of the kubeconfig; None: its current one. An operator's option, no variable."""

    @classmethod
    def load(cls, env: Environment) -> ClusterSettings:
        """Read from a mapping. ValueError when the kubeconfig isn't there, or the namespace can't be one."""
        kubeconfig = Path(env["LLMARINER_KUBECONFIG"]).expanduser() if env.get("LLMARINER_KUBECONFIG") else None
        if kubeconfig is not None and not kubeconfig.is_file():
            raise ValueError(f"LLMARINER_KUBECONFIG must name a kubeconfig file; there is none at {kubeconfig}.")
        namespace = env.get("LLMARINER_NAMESPACE") or cls.namespace
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
            raise ValueError(
                f"LLMARINER_NAMESPACE must be the name of a namespace (a-z, 0-9, -; at most 63), not {namespace!r}."
            )
        return cls(kubeconfig, namespace)


@dataclass(frozen=True)
class ModelSettings:
    """What projects may have of models without an administrator."""

    locations: tuple[str, ...] = ("hf://",)
    """`LLMARINER_MODEL_LOCATIONS`: prefixes, apart by commas, of what they may load; `${project_id}` is their id."""

    @classmethod
    def load(cls, env: Environment) -> ModelSettings:
        """Read from a mapping. ValueError for an entry that can't be open to projects."""
        said = env.get("LLMARINER_MODEL_LOCATIONS")
        if said is None:
            return cls()
        try:
            return cls(validate_locations([each.strip() for each in said.split(",") if each.strip()]))
        except ValueError as error:
            raise ValueError(f"LLMARINER_MODEL_LOCATIONS: {error}") from error


@dataclass(frozen=True)
class UsageSettings:
    """What is kept of what was used. Sums are kept for ever."""

    days: float = 92
    """`LLMARINER_USAGE_DAYS`: how long requests are kept one by one, for exports, minutes and `why`."""

    @classmethod
    def load(cls, env: Environment) -> UsageSettings:
        """Read from a mapping. ValueError when it is no number of at least a day."""
        return cls(read_number(env, "LLMARINER_USAGE_DAYS", cls.days, minimum=1))


@dataclass(frozen=True)
class GatewaySettings:
    """Bounds of the token path."""

    body_limit: int = 8 * 1024 * 1024
    """`LLMARINER_BODY_LIMIT`: bytes of a request body. Default 8 MiB."""

    wait_budget: float = 60.0
    """`LLMARINER_WAIT_SECONDS`: how long a request that does not stream waits for a sleeping model."""

    wait_limit: float = 900.0
    """`LLMARINER_WAIT_LIMIT_SECONDS`: the longest wait a caller may ask for, and the longest a stream waits."""

    heartbeat: float = 5.0
    """`LLMARINER_HEARTBEAT_SECONDS`: seconds between comments in a stream that waits."""

    waiting_room_per_model: int = 2000
    """`LLMARINER_ROOM_PER_MODEL`: requests that may wait for one model in this process."""

    waiting_room_per_tenant: int = 1000
    """`LLMARINER_ROOM_PER_TENANT`: of these, how many of one project."""

    buffered_request_bytes: int = 64 * 1024 * 1024
    """`LLMARINER_ROOM_BYTES`: bytes of request bodies that this process holds until engines answer. Default 64 MiB."""

    buffered_request_bytes_per_tenant: int = 32 * 1024 * 1024
    """`LLMARINER_ROOM_BYTES_PER_TENANT`: of these, how many of one project. Default 32 MiB."""

    buffered_response_bytes: int = 96 * 1024 * 1024
    """`LLMARINER_ANSWER_BYTES`: bytes of large answers that this process holds until they are delivered. Default 96 MiB."""

    write_timeout: float = 60.0
    """`LLMARINER_WRITE_TIMEOUT_SECONDS`: how long a caller may take nothing of an answer that waits for them."""

    stream_idle_timeout: float = 600.0
    """`LLMARINER_ENGINE_SILENCE_SECONDS`: how long an engine may send nothing of a stream."""

    engine_timeout: float = 14_400.0
    """`LLMARINER_ENGINE_LIMIT_SECONDS`: how long an engine may work on an answer that is not streamed."""

    requests_per_minute: int = 6000
    """`LLMARINER_REQUESTS_PER_MINUTE`: of a key that no limit was set for, in all processes together."""

    tokens_per_minute: int = 10_000_000
    """`LLMARINER_TOKENS_PER_MINUTE`: likewise."""

    concurrent_requests: int = 1000
    """`LLMARINER_CONCURRENT_REQUESTS`: requests of such a key that may be under way, those that wait included."""

    unknown_keys_per_minute: int = 120
    """`LLMARINER_UNKNOWN_KEYS_PER_MINUTE`: keys of one address that are looked up in vain, in this process."""

    trusted_proxies: tuple[str, ...] = ()
    """`LLMARINER_TRUSTED_PROXIES`: networks (CIDR) of those whose X-Forwarded-For says where a request comes from."""

    @property
    def default_limit(self) -> dict[str, int]:
        """The limit of a key that none was set for."""
        return {
            "requests_per_minute": self.requests_per_minute,
            "tokens_per_minute": self.tokens_per_minute,
            "concurrent_requests": self.concurrent_requests,
        }

    @classmethod
    def load(cls, env: Environment) -> GatewaySettings:
        """Read from a mapping. ValueError says which variable is wrong."""
        body_limit = int(read_number(env, "LLMARINER_BODY_LIMIT", cls.body_limit, minimum=1024))
        # A single request of the allowed size must find room.
        per_tenant = int(read_number(env, "LLMARINER_ROOM_BYTES_PER_TENANT", max(cls.buffered_request_bytes_per_tenant, body_limit)))
        buffered_request_bytes = int(read_number(env, "LLMARINER_ROOM_BYTES", max(cls.buffered_request_bytes, per_tenant)))
        if per_tenant < body_limit or buffered_request_bytes < per_tenant:
            raise ValueError(
                "LLMARINER_ROOM_BYTES must be at least LLMARINER_ROOM_BYTES_PER_TENANT, and that at least "
                f"LLMARINER_BODY_LIMIT, not {buffered_request_bytes}, {per_tenant} and {body_limit}."
            )
        return cls(
            body_limit=body_limit,
            buffered_request_bytes=buffered_request_bytes,
            buffered_request_bytes_per_tenant=per_tenant,
            buffered_response_bytes=int(read_number(env, "LLMARINER_ANSWER_BYTES", cls.buffered_response_bytes, minimum=1024 * 1024)),
            write_timeout=read_number(env, "LLMARINER_WRITE_TIMEOUT_SECONDS", cls.write_timeout, minimum=0.1),
            stream_idle_timeout=read_number(env, "LLMARINER_ENGINE_SILENCE_SECONDS", cls.stream_idle_timeout, minimum=0.1),
            engine_timeout=read_number(env, "LLMARINER_ENGINE_LIMIT_SECONDS", cls.engine_timeout, minimum=0.1),
            wait_budget=read_number(env, "LLMARINER_WAIT_SECONDS", cls.wait_budget),
            wait_limit=read_number(env, "LLMARINER_WAIT_LIMIT_SECONDS", cls.wait_limit),
            heartbeat=read_number(env, "LLMARINER_HEARTBEAT_SECONDS", cls.heartbeat, minimum=0.05),
            waiting_room_per_model=int(read_number(env, "LLMARINER_ROOM_PER_MODEL", cls.waiting_room_per_model, minimum=1)),
            waiting_room_per_tenant=int(read_number(env, "LLMARINER_ROOM_PER_TENANT", cls.waiting_room_per_tenant, minimum=1)),
            requests_per_minute=int(read_number(env, "LLMARINER_REQUESTS_PER_MINUTE", cls.requests_per_minute, minimum=1)),
            tokens_per_minute=int(read_number(env, "LLMARINER_TOKENS_PER_MINUTE", cls.tokens_per_minute, minimum=1)),
            concurrent_requests=int(read_number(env, "LLMARINER_CONCURRENT_REQUESTS", cls.concurrent_requests, minimum=1)),
            unknown_keys_per_minute=int(
                read_number(env, "LLMARINER_UNKNOWN_KEYS_PER_MINUTE", cls.unknown_keys_per_minute, minimum=1)
            ),
            trusted_proxies=read_networks(env, "LLMARINER_TRUSTED_PROXIES"),
        )


@dataclass(frozen=True)
class ServingSettings:
    """Which serving adapter, and the one-machine adapter's bounds."""

    adapter: str = "remote"
    """`LLMARINER_SERVING`: `processes` (engines as child processes), `static` (engines at fixed URLs), `kserve`
    (InferenceServices of a cluster), `remote`."""

    static: str = "{}"
    """`LLMARINER_SERVING_STATIC`: JSON object, model id → engine base URL."""

    memory_bytes: int = 0
    """`LLMARINER_MEMORY_GIB`: budget for all engines and their warm parent. 0: 3/4 of what is free at start."""

    idle_seconds: float = 300.0
    """`LLMARINER_IDLE_SECONDS`: a model without requests for that long goes to sleep. 0: never."""

    threads: int = 0
    """`LLMARINER_ENGINE_THREADS`: OpenMP threads of an engine. 0: half of the cores, at most 8."""

    warm: bool = True
    """`LLMARINER_WARM_PARENT`: keep vLLM imported in a process from which engines are forked. 0: plain starts."""

    @classmethod
    def load(cls, env: Environment) -> ServingSettings:
        """Read from a mapping. ValueError says which variable is wrong."""
        adapter = env.get("LLMARINER_SERVING") or cls.adapter
        if adapter not in ("processes", "static", "kserve", "remote"):
            raise ValueError(f"LLMARINER_SERVING must be processes, static, kserve or remote, not {adapter!r}.")
        return cls(
            adapter=adapter,
            static=env.get("LLMARINER_SERVING_STATIC") or cls.static,
            memory_bytes=int(read_number(env, "LLMARINER_MEMORY_GIB", 0) * 1024**3),
            idle_seconds=read_number(env, "LLMARINER_IDLE_SECONDS", cls.idle_seconds),
            threads=int(read_number(env, "LLMARINER_ENGINE_THREADS", 0)),
            warm=env.get("LLMARINER_WARM_PARENT", "1") != "0",
        )


@dataclass(frozen=True)
class KServeSettings:
    """How models become InferenceServices."""

    namespace: str = "llmariner-models"
    """`LLMARINER_MODELS_NAMESPACE`: where they stand."""

    accelerator: str = "cpu"
    """`LLMARINER_ACCELERATOR`: `nvidia`, `amd`, `intel-gaudi` or `cpu`; a model with `gpu: 0` is served by the CPU."""

    runtimes: Mapping[str, str] = field(default_factory=dict)
    """`LLMARINER_RUNTIMES`: JSON object, hardware → ClusterServingRuntime, in place of ours (`kserve/`)."""

    queue: str = ""
    """`LLMARINER_QUEUE`: Kueue's LocalQueue that models wait in for quota. Empty: Kueue is not asked."""

    prometheus: str = ""
    """`LLMARINER_PROMETHEUS_URL`: where KEDA asks for engines' metrics. Empty: autoscalers are Kubernetes' own."""

    standby_token: Secret = field(default_factory=lambda: Secret(""))
    """`LLMARINER_STANDBY_TOKEN` or `…_FILE`: what standby pods want to hear. Empty: there are none."""

    cpu: str = "4"
    """`LLMARINER_ENGINE_CPU`: of an engine's container."""

    memory: str = "8Gi"
    """`LLMARINER_ENGINE_MEMORY`: of an engine's container, where the size of the weights isn't known."""

    idle_seconds: float = 300.0
    """`LLMARINER_IDLE_SECONDS`, as on one machine."""

    @classmethod
    def load(cls, env: Environment) -> KServeSettings:
        """Read from a mapping. ValueError says which variable is wrong."""
        accelerator = env.get("LLMARINER_ACCELERATOR") or cls.accelerator
        if accelerator not in ("cpu", "nvidia", "amd", "intel-gaudi"):
            raise ValueError(f"LLMARINER_ACCELERATOR must be cpu, nvidia, amd or intel-gaudi, not {accelerator!r}.")
        try:
            runtimes = json.loads(env.get("LLMARINER_RUNTIMES") or "{}")
        except ValueError:
            runtimes = None
        if not isinstance(runtimes, dict) or not all(isinstance(name, str) for name in runtimes.values()):
            raise ValueError('LLMARINER_RUNTIMES must be a JSON object such as {"cpu": "vllm-cpu"}.')
        return cls(
            namespace=env.get("LLMARINER_MODELS_NAMESPACE") or cls.namespace,
            accelerator=accelerator,
            runtimes=runtimes,
            queue=env.get("LLMARINER_QUEUE", ""),
            prometheus=read_http_url(env, "LLMARINER_PROMETHEUS_URL"),
            standby_token=read_secret(env, "LLMARINER_STANDBY_TOKEN"),
            cpu=env.get("LLMARINER_ENGINE_CPU") or cls.cpu,
            memory=env.get("LLMARINER_ENGINE_MEMORY") or cls.memory,
            idle_seconds=read_number(env, "LLMARINER_IDLE_SECONDS", cls.idle_seconds),
        )
