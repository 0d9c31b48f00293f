"""All settings that functions read from environment variables.

Each concern is one frozen dataclass. `load` builds it from a mapping (tests pass a dict) and validates it, so that an
invalid value stops the process at its start with a message. Secrets are hidden in a repr.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmariner.environment import (
    Environment,
    Secret,
    environment,
    read_http_url,
    read_number,
    read_secret,
)
from llmariner.gateway_settings import ControlPlaneSettings, GatewaySettings, SecretSettings
from llmariner.identity_settings import IdentitySettings
from llmariner.model_settings import ModelSettings
from llmariner.object_settings import ObjectSettings, S3Settings
from llmariner.vector_settings import VectorSettings

__all__ = [
    "BrokerSettings",
    "ClusterSettings",
    "ControlPlaneSettings",
    "DatabaseSettings",
    "Environment",
    "GatewaySettings",
    "IdentitySettings",
    "KServeSettings",
    "ModelSettings",
    "ObjectSettings",
    "S3Settings",
    "Secret",
    "SecretSettings",
    "ServingSettings",
    "StandaloneSettings",
    "UsageSettings",
    "VectorSettings",
    "environment",
]


@dataclass(frozen=True)
class StandaloneSettings:
    """Files and address of the standalone platform."""

    root: Path = Path.home() / ".llmariner"
    """`LLMARINER_HOME`: database, secrets, logs, model registry. Default `~/.llmariner`."""

    cache: Path = Path.home() / ".cache" / "llmariner"
    """`LLMARINER_CACHE`: engine environments and model weights, keyed by a hash of their pins; safe to delete."""

    host: str = "127.0.0.1"
    """`LLMARINER_HOST`: address to listen on. The platform speaks plain HTTP: leave it on loopback."""

    port: int = 8080
    """`LLMARINER_PORT`."""

    gpu_exporter: str = ""
    """`LLMARINER_GPU_EXPORTER_URL`: the page of an exporter that measures this machine's GPUs."""

    @property
    def base_url(self) -> str:
        """The platform's URL for programs on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - all addresses, so any one works
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @classmethod
    def load(cls, env: Environment) -> StandaloneSettings:
        """Read from a mapping. Raises ValueError that names the invalid variable."""
        cache_home = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        port = int(read_number(env, "LLMARINER_PORT", 8080, minimum=1))
        if port > 65535:
            raise ValueError(f"LLMARINER_PORT must be at most 65535, not {port}.")
        return cls(
            root=Path(env.get("LLMARINER_HOME") or Path.home() / ".llmariner").expanduser().absolute(),
            cache=Path(env.get("LLMARINER_CACHE") or cache_home / "llmariner").expanduser().absolute(),
            host=(env.get("LLMARINER_HOST") or "127.0.0.1").strip("[]"),
            port=port,
            gpu_exporter=read_http_url(env, "LLMARINER_GPU_EXPORTER_URL"),
        )


@dataclass(frozen=True)
class DatabaseSettings:
    """The database, the size of the connection pool, and timeouts."""

    url: str
    """`LLMARINER_DATABASE_URL`: `sqlite:///path` or `postgresql+psycopg://user@host/name`."""

    pool_size: int = 5
    """`LLMARINER_DATABASE_POOL`: connections kept open. Few, since an installation runs many function instances."""

    connect_seconds: float = 5.0
    """`LLMARINER_DATABASE_CONNECT_SECONDS`: timeout of a new connection, and of the wait for a pooled one."""

    lock_seconds: float = 10.0
    """`LLMARINER_DATABASE_LOCK_SECONDS`: how long a statement waits for another transaction's lock."""

    statement_seconds: float = 30.0
    """`LLMARINER_DATABASE_STATEMENT_SECONDS`: how long one statement may take. PostgreSQL only, like the next."""

    idle_seconds: float = 60.0
    """`LLMARINER_DATABASE_IDLE_SECONDS`: how long a transaction may wait for its next statement."""

    @classmethod
    def load(cls, env: Environment) -> DatabaseSettings:
        """Read from a mapping. Raises ValueError if no database is set."""
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
            statement_seconds=read_number(
                env, "LLMARINER_DATABASE_STATEMENT_SECONDS", cls.statement_seconds, minimum=0.1
            ),
            idle_seconds=read_number(env, "LLMARINER_DATABASE_IDLE_SECONDS", cls.idle_seconds, minimum=1),
        )


@dataclass(frozen=True)
class BrokerSettings:
    """The Knative Broker that receives events on a cluster."""

    url: str = ""
    """`LLMARINER_BROKER_URL`: ingress of the Broker. Empty: the standalone dispatcher delivers events."""

    token_file: Path | None = None
    """`LLMARINER_BROKER_TOKEN_FILE`: token for a Broker that authenticates; Kubernetes refreshes the file."""

    @classmethod
    def load(cls, env: Environment) -> BrokerSettings:
        """Read from a mapping. Raises ValueError if the URL is not an HTTP URL."""
        url = env.get("LLMARINER_BROKER_URL", "")
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("LLMARINER_BROKER_URL must be the http:// URL of the Broker's ingress.")
        token = env.get("LLMARINER_BROKER_TOKEN_FILE", "")
        return cls(url=url, token_file=Path(token) if token else None)


@dataclass(frozen=True)
class ClusterSettings:
    """The Kubernetes cluster, and the platform's namespace in it."""

    kubeconfig: Path | None = None
    """`LLMARINER_KUBECONFIG`: a kubeconfig file. None: the pod's own ServiceAccount."""

    namespace: str = "llmariner"
    """`LLMARINER_NAMESPACE`: the namespace of the platform."""

    context: str | None = None
    """A context of the kubeconfig; None: its current one. A command-line option, without a variable."""

    @classmethod
    def load(cls, env: Environment) -> ClusterSettings:
        """Read from a mapping. Raises ValueError for a missing kubeconfig and an invalid namespace."""
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
class UsageSettings:
    """Retention of usage records. Rollups are kept forever."""

    days: float = 92
    """`LLMARINER_USAGE_DAYS`: days for which single requests are kept, for exports, buckets of minutes and `why`."""

    @classmethod
    def load(cls, env: Environment) -> UsageSettings:
        """Read from a mapping. Raises ValueError unless it is at least one day."""
        return cls(read_number(env, "LLMARINER_USAGE_DAYS", cls.days, minimum=1))


@dataclass(frozen=True)
class ServingSettings:
    """The serving adapter, and settings of the standalone one."""

    adapter: str = "remote"
    """`LLMARINER_SERVING`: `processes` (engines as child processes), `static` (engines at fixed URLs), `kserve`
    (InferenceServices of a cluster), `remote`."""

    static: str = "{}"
    """`LLMARINER_SERVING_STATIC`: JSON object, model id → engine base URL."""

    memory_bytes: int = 0
    """`LLMARINER_MEMORY_GIB`: memory for all engines and their warm parent. 0: 3/4 of the free memory at start."""

    idle_seconds: float = 300.0
    """`LLMARINER_IDLE_SECONDS`: idle time after which a model goes to sleep. 0: never."""

    threads: int = 0
    """`LLMARINER_ENGINE_THREADS`: OpenMP threads of an engine. 0: half of the cores, at most 8."""

    warm: bool = True
    """`LLMARINER_WARM_PARENT`: fork engines from a process that has imported vLLM. 0: start each one from scratch."""

    @classmethod
    def load(cls, env: Environment) -> ServingSettings:
        """Read from a mapping. Raises ValueError that names the invalid variable."""
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
    """Settings of the KServe adapter, which serves models as InferenceServices."""

    namespace: str = "llmariner-models"
    """`LLMARINER_MODELS_NAMESPACE`: the namespace of InferenceServices."""

    accelerator: str = "cpu"
    """`LLMARINER_ACCELERATOR`: `nvidia`, `amd`, `intel-gaudi` or `cpu`; a model with `gpu: 0` runs on the CPU."""

    runtimes: Mapping[str, str] = field(default_factory=dict)
    """`LLMARINER_RUNTIMES`: JSON object, hardware → ClusterServingRuntime, overrides of those in `kserve/`."""

    queue: str = ""
    """`LLMARINER_QUEUE`: Kueue's LocalQueue for models. Empty: Kueue is not used."""

    queue_is_optional: bool = False
    """Where that queue isn't there, models start at once: worker clusters may have no pool, and no Kueue."""

    prometheus: str = ""
    """`LLMARINER_PROMETHEUS_URL`: the Prometheus that KEDA queries for engine metrics, and that knows how far GPUs are used.
    Empty: Kubernetes' own autoscaler."""

    standby_token: Secret = field(default_factory=lambda: Secret(""))
    """`LLMARINER_STANDBY_TOKEN` or `…_FILE`: token that authenticates to standby pods. Empty: there are none."""

    cpu: str = "4"
    """`LLMARINER_ENGINE_CPU`: CPU request of an engine's container."""

    memory: str = "8Gi"
    """`LLMARINER_ENGINE_MEMORY`: memory of an engine's container if the size of the weights is unknown."""

    idle_seconds: float = 300.0
    """`LLMARINER_IDLE_SECONDS`, as in `ServingSettings`."""

    adapter_image: str = ""
    adapter_url: str = ""
    """An image with Python, which fetches tuned adapters for engines, and from where (`models.installation`)."""

    @classmethod
    def load(cls, env: Environment) -> KServeSettings:
        """Read from a mapping. Raises ValueError that names the invalid variable."""
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
