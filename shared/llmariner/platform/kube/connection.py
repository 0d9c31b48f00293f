"""HTTP requests to the API server: the `kubernetes` package provides address and credentials, bodies are plain dicts.

Only the package's configuration and connection pool are used. Measured on 37.0.2: importing any of its modules takes
0.55 s and 47 MB, since its `__init__` imports them all. `kubernetes.dynamic` takes no longer, but it runs discovery before
the first request, caches it in the temp folder, drops unknown fields silently by default, and wraps objects in classes.
The typed clients take 3 s more.
"""

from __future__ import annotations

import json
import math
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import urllib3
from kubernetes.client import Configuration
from kubernetes.client.rest import RESTClientObject
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from llmariner.platform.kube.errors import raise_for_status, unavailable
from llmariner.platform.kube.remote_server import RemoteServer
from llmariner.settings import ClusterSettings

if TYPE_CHECKING:
    from llmariner.platform.kube.pod_programs import PodProgram

__all__ = ["Connection", "Query"]

Query = Mapping[str, str | int | None]

# Seconds to connect, and for a response, of which an admission webhook may take 30.
_CONNECT_SECONDS, _READ_SECONDS = 5.0, 35.0
_UNAUTHORIZED = 401
# A worker cluster's API server is its organization's. A page of 500 large objects has a tenth of that.
_RESPONSE_BYTES = 64 * 1024 * 1024
_BODY_SECONDS = 60.0
_PART_BYTES = 64 * 1024
# A request is retried once where the connection broke before it was sent, or where it is idempotent.
_RETRIES = urllib3.Retry(total=1, redirect=0, status=0, respect_retry_after_header=False)


class Connection:
    """Requests to one API server; safe to share between threads. ValueError: the settings name no cluster."""

    def __init__(self, settings: ClusterSettings | RemoteServer) -> None:
        self._settings = settings
        self.list_bytes: float = _RESPONSE_BYTES if isinstance(settings, RemoteServer) else math.inf
        """How many bytes all pages of a list may have together."""
        self.list_seconds: float = _BODY_SECONDS if isinstance(settings, RemoteServer) else math.inf
        """After how long no further page of a list is asked for."""
        self._configuring = threading.Lock()
        self._configure()

    def request(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        """Send one request; returns its JSON response. Entries of `query` that are None are omitted.

        ClusterError when the server rejects it, Unavailable when it doesn't respond within 40 s, or for minutes on end.
        """
        with self._send_authenticated(method, path, query or {}, body, content_type, _READ_SECONDS) as response:
            return _read(response)[0]

    def page(self, path: str, query: Query) -> tuple[dict[str, Any], int]:
        """As `request`, for a page of a list, and how many bytes it has."""
        with self._send_authenticated("GET", path, query, None, "", _READ_SECONDS) as response:
            return _read(response)

    def stream(self, path: str, query: Query, read_timeout: float) -> urllib3.BaseHTTPResponse:
        """A streamed response, which the caller closes; reading fails after `read_timeout` seconds without a byte."""
        response = self._send_authenticated("GET", path, query, None, "", read_timeout)
        if response.status >= 400:
            with response:
                _read(response)
        return response

    def start_program(self, path: str, container: str, argv: Sequence[str]) -> PodProgram:
        """Start a program in a container of the pod at `path`; see `pod_programs`.

        The credential is that of the last request.
        """
        from llmariner.platform.kube.pod_programs import Server, open_program

        configuration = self._configuration
        try:
            credentials = self._credentials(configuration)
        except ConfigException as error:
            raise unavailable(error) from error
        return open_program(Server(configuration.host, _tls(configuration), credentials), path, container, argv)

    def close(self) -> None:
        """Close every pooled connection."""
        self._rest.close()

    def _configure(self) -> None:
        self._configuration = _configuration(self._settings)
        self._rest = RESTClientObject(self._configuration)

    @staticmethod
    def _credentials(configuration: Configuration) -> dict[str, str]:
        return {each["key"]: str(each["value"]) for each in configuration.auth_settings().values()}

    def _send_authenticated(
        self, method: str, path: str, query: Query, body: Any, content_type: str, read_timeout: float
    ) -> urllib3.BaseHTTPResponse:
        before = self._configuration
        response = self._send_once(method, path, query, body, content_type, read_timeout)
        if response.status != _UNAUTHORIZED:
            return response
        response.close()
        # Tokens are short-lived: the file may have a newer one than the cached configuration.
        with self._configuring:
            if self._configuration is before:
                self._configure()
        return self._send_once(method, path, query, body, content_type, read_timeout)

    def _send_once(
        self, method: str, path: str, query: Query, body: Any, content_type: str, read_timeout: float
    ) -> urllib3.BaseHTTPResponse:
        encoded_query = urlencode({key: value for key, value in query.items() if value is not None})
        headers = {"accept": "application/json", "user-agent": "llmariner"}
        if body is not None:
            headers["content-type"] = content_type
        try:
            headers |= self._credentials(self._configuration)
            response: urllib3.BaseHTTPResponse = self._rest.pool_manager.request(
                method,
                f"{self._configuration.host}{path}{'?' if encoded_query else ''}{encoded_query}",
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(connect=_CONNECT_SECONDS, read=read_timeout),
                retries=_RETRIES,
                preload_content=False,
            )
            return response
        except (urllib3.exceptions.HTTPError, ConfigException, OSError) as error:
            raise unavailable(error) from error


def _tls(configuration: Configuration) -> ssl.SSLContext:
    """What `RESTClientObject` checks and shows."""
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
    if not configuration.verify_ssl:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


def _configuration(settings: ClusterSettings | RemoteServer) -> Configuration:
    configuration = Configuration()
    if isinstance(settings, RemoteServer):
        token = settings.token
        configuration.host, configuration.proxy = settings.url, None
        configuration.api_key = {"authorization": ""}
        configuration.refresh_api_key_hook = lambda each: each.api_key.update(authorization=f"Bearer {token()}")
        return configuration
    try:
        if settings.kubeconfig is not None:
            load_kube_config(
                str(settings.kubeconfig), settings.context, client_configuration=configuration, persist_config=False
            )
        else:
            load_incluster_config(configuration)
            # HTTPS_PROXY is the way out of the cluster; its API server is inside.
            configuration.proxy = None
    except ConfigException as error:
        raise ValueError(
            f"No Kubernetes cluster is named: {str(error).rstrip('.')}. Set LLMARINER_KUBECONFIG to a kubeconfig, or run "
            "this in a pod that mounts its ServiceAccount's token."
        ) from error
    return configuration


def _body(response: urllib3.BaseHTTPResponse) -> bytes:
    """The body, which may neither be too large nor come byte by byte for ever: its reader holds a thread."""
    text, ends_at = bytearray(), time.monotonic() + _BODY_SECONDS
    try:
        while part := response.read1(_PART_BYTES):
            text += part
            if len(text) > _RESPONSE_BYTES:
                raise unavailable(ValueError(f"it answers more than {_RESPONSE_BYTES} bytes"))
            if time.monotonic() > ends_at:
                raise unavailable(ValueError(f"its answer did not end within {_BODY_SECONDS:g} s"))
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise unavailable(error) from error
    return bytes(text)


def _read(response: urllib3.BaseHTTPResponse) -> tuple[dict[str, Any], int]:
    text = _body(response)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = text.decode(errors="replace").strip()[:500]
        if response.status < 400:
            raise unavailable(ValueError(f"it is no JSON that answered: {shown[:80]!r}")) from error
        value = {"message": shown}
    if response.status >= 400 or not isinstance(value, dict):
        raise_for_status(response.status, value if isinstance(value, dict) else {})
    return value, len(text)
