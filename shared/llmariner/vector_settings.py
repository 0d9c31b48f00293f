"""Settings of the Milvus that has the vector index; `llmariner.settings` exports them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from llmariner.environment import Environment, Secret, read_http_url, read_number, read_secret

__all__ = ["VectorSettings"]

_INDEX_TYPES = ("AUTOINDEX", "FLAT", "HNSW", "IVF_FLAT", "DISKANN")


@dataclass(frozen=True)
class VectorSettings:
    """Address and credentials of a Milvus."""

    uri: str
    """`LLMARINER_MILVUS_URI`: `http://host:19530`, or `https://host:19530` for TLS. Unset: `llma up` starts its own."""

    token: Secret = field(default_factory=lambda: Secret(""), compare=False)
    """`LLMARINER_MILVUS_TOKEN` or `…_FILE`: `user:password`, or an API key."""

    database: str = "default"
    """`LLMARINER_MILVUS_DATABASE`: the database in Milvus that has the collections."""

    ca_file: str = ""
    """`LLMARINER_MILVUS_CA_FILE`: certificates (PEM) that sign the server's. Default: those of gRPC."""

    client_certificate_file: str = ""
    """`LLMARINER_MILVUS_CLIENT_CERTIFICATE_FILE`: the platform's own certificate (PEM), for a Milvus that asks for one."""

    client_key_file: str = ""
    """`LLMARINER_MILVUS_CLIENT_KEY_FILE`: the private key (PEM) of that certificate."""

    server_name: str = ""
    """`LLMARINER_MILVUS_SERVER_NAME`: the name in the server's certificate, if it is not the host of the address."""

    seconds: float = 30.0
    """`LLMARINER_MILVUS_SECONDS`: how long one call to Milvus may take, with its retries."""

    index_type: str = "AUTOINDEX"
    """`LLMARINER_MILVUS_INDEX`: Milvus' type of the index of vectors of new collections."""

    @classmethod
    def load(cls, env: Environment) -> VectorSettings:
        """Read from a mapping. Raises ValueError if no Milvus is set, or a setting is wrong or contradicts another."""
        uri = read_http_url(env, "LLMARINER_MILVUS_URI")
        if not uri:
            raise ValueError("LLMARINER_MILVUS_URI is not set: http://host:19530, or https://host:19530 for TLS.")
        _check_address(uri)
        loaded = cls(
            uri=uri,
            token=read_secret(env, "LLMARINER_MILVUS_TOKEN"),
            database=env.get("LLMARINER_MILVUS_DATABASE") or cls.database,
            ca_file=env.get("LLMARINER_MILVUS_CA_FILE", ""),
            client_certificate_file=env.get("LLMARINER_MILVUS_CLIENT_CERTIFICATE_FILE", ""),
            client_key_file=env.get("LLMARINER_MILVUS_CLIENT_KEY_FILE", ""),
            server_name=env.get("LLMARINER_MILVUS_SERVER_NAME", ""),
            seconds=read_number(env, "LLMARINER_MILVUS_SECONDS", cls.seconds, minimum=1),
            index_type=env.get("LLMARINER_MILVUS_INDEX") or cls.index_type,
        )
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", loaded.database):
            raise ValueError(f"LLMARINER_MILVUS_DATABASE must be letters, digits and _, not {loaded.database!r}.")
        if loaded.index_type not in _INDEX_TYPES:
            raise ValueError(f"LLMARINER_MILVUS_INDEX must be one of {', '.join(_INDEX_TYPES)}.")
        _check_tls(loaded)
        return loaded


def _check_address(uri: str) -> None:
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"LLMARINER_MILVUS_URI has no valid port: {error}.") from error
    if parts.username is not None or parts.password is not None:
        raise ValueError("LLMARINER_MILVUS_URI must have no user and password; set LLMARINER_MILVUS_TOKEN_FILE.")
    if not parts.hostname or port is None or parts.path or parts.query or parts.fragment:
        raise ValueError("LLMARINER_MILVUS_URI must be scheme, host and port alone, such as http://milvus:19530.")


def _check_tls(settings: VectorSettings) -> None:
    files = (settings.ca_file, settings.client_certificate_file, settings.client_key_file)
    if settings.uri.startswith("http:") and any((*files, settings.server_name)):
        raise ValueError("LLMARINER_MILVUS_URI must be https:// if a certificate, key or server name is set.")
    if bool(settings.client_certificate_file) != bool(settings.client_key_file):
        raise ValueError(
            "LLMARINER_MILVUS_CLIENT_CERTIFICATE_FILE and LLMARINER_MILVUS_CLIENT_KEY_FILE must be set together."
        )
    if settings.client_certificate_file and not settings.ca_file:
        raise ValueError("LLMARINER_MILVUS_CA_FILE must be set beside LLMARINER_MILVUS_CLIENT_CERTIFICATE_FILE.")
