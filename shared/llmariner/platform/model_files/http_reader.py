"""HTTP for model files: ranges, redirects, and no connection to private addresses.

A repository decides where its redirects lead, so each address is checked after the name is resolved, and the connection
goes to the checked address. Hosts that the operator configured, and a proxy of the environment, may be private.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import json
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from llmariner.platform.model_files import FilesUnavailable, TransferInterrupted

__all__ = ["HttpReader", "HttpStatus"]

_CONNECT_SECONDS = 15
_READ_SECONDS = 60
_DOCUMENT_SECONDS = 120
_MAX_REDIRECTS = 5
_MAX_DOCUMENT_BYTES = 4 << 20  # as objects, it may be 25 times that; a function has 256 MiB
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Mapped, compatible, translated (RFC 6052) and, of the two forms of RFC 2765, the second.
_ENDING_IN_IPV4 = tuple(map(ipaddress.ip_network, ("::ffff:0:0/96", "::/96", "64:ff9b::/96", "::ffff:0:0:0/96")))
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(?:\d{1,19}|\*)", re.ASCII)


class HttpStatus(Exception):
    """A final status of 400 to 499. `code`: of the header `X-Error-Code`, which the Hugging Face Hub sends."""

    def __init__(self, status: int, code: str, host: str) -> None:
        super().__init__(f"{host} answers with status {status}")
        self.status = status
        self.code = code


class HttpReader:
    """Reads URLs below one endpoint, and those that it redirects to.

    `private_allowed`: any host may have a private address; otherwise only that of the endpoint, which the operator chose.
    `headers` go to the host of the endpoint only, since they may have credentials. Thread-safe.
    """

    def __init__(self, endpoint: str, headers: Mapping[str, str], *, private_allowed: bool) -> None:
        self._endpoint = urlsplit(endpoint)
        self._headers = dict(headers)
        self._private_allowed = private_allowed
        self._tls = ssl.create_default_context()

    def document(self, url: str, accept: str = "application/json") -> tuple[Any, bytes]:
        """The JSON of a URL, and its bytes. HttpStatus, FilesUnavailable, TransferInterrupted."""
        with self._open(url, {"Accept": accept}) as response:
            content = _read_document(response, url)
        if len(content) > _MAX_DOCUMENT_BYTES:
            raise FilesUnavailable(f"{urlsplit(url).hostname} sends a list of over {_MAX_DOCUMENT_BYTES >> 20} MiB.")
        try:
            return json.loads(content), content
        except (ValueError, RecursionError) as error:
            raise FilesUnavailable(
                f"{urlsplit(url).hostname} sends no JSON; is it the address of a repository?"
            ) from error

    @contextlib.contextmanager
    def range(self, url: str, start: int, end: int) -> Iterator[_Body]:
        """The bytes from `start` up to `end`. HttpStatus, FilesUnavailable, TransferInterrupted."""
        with self._open(url, {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}) as response:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status == 206:
                if found is None or (int(found[1]), int(found[2])) != (start, end - 1):
                    raise FilesUnavailable(f"{urlsplit(url).hostname} sends another range than it was asked for.")
            elif start > 0:
                raise FilesUnavailable(f"{urlsplit(url).hostname} sends no ranges, so nothing can be resumed there.")
            yield _Body(response, end - start, url)

    @contextlib.contextmanager
    def _open(self, url: str, headers: Mapping[str, str]) -> Iterator[_Response]:
        for _ in range(_MAX_REDIRECTS):
            connection, response = self._send(url, headers)
            with contextlib.closing(connection):
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or not location:
                    _check_status(response, url)
                    yield response
                    return
            url = self._redirected(url, location)
        raise FilesUnavailable(f"{self._endpoint.hostname} redirects more than {_MAX_REDIRECTS} times.")

    def _redirected(self, url: str, location: str) -> str:
        try:
            found = urljoin(url, location)
            self._check_address(urlsplit(found))
        except ValueError as error:
            raise FilesUnavailable(
                f"{self._endpoint.hostname} redirects to an address that is none: refused."
            ) from error
        return found

    def _send(self, url: str, headers: Mapping[str, str]) -> tuple[http.client.HTTPConnection, _Response]:
        parts = urlsplit(url)
        self._check_address(parts)
        own = (parts.scheme, parts.netloc) == (self._endpoint.scheme, self._endpoint.netloc)
        connection, target = self._connection(parts, own=own)
        try:
            connection.request("GET", target, headers={**headers, **(self._headers if own else {})})
            response = connection.getresponse()
            assert isinstance(response, _Response)
            return connection, response
        except FilesUnavailable:
            connection.close()
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise _interrupted(url, error) from error

    def _check_address(self, parts: SplitResult) -> None:
        """FilesUnavailable, and ValueError for a port that is no number."""
        if parts.scheme != "https" and (parts.scheme, self._endpoint.scheme) != ("http", "http"):
            raise FilesUnavailable(
                f"{self._endpoint.hostname} redirects to {parts.scheme[:10]}://, which is not encrypted: refused."
            )
        if not parts.hostname or parts.username is not None or parts.port == 0:
            raise FilesUnavailable(f"{self._endpoint.hostname} redirects to an address without a host: refused.")

    def _connection(self, parts: SplitResult, *, own: bool) -> tuple[http.client.HTTPConnection, str]:
        """A connection that is not open yet, and the target of its request line."""
        host, port = str(parts.hostname), parts.port or (443 if parts.scheme == "https" else 80)
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        secure = parts.scheme == "https"
        check_private = not (own or self._private_allowed)
        if proxy := _proxy(parts.scheme, host):
            if check_private and _is_private_literal(host):
                raise _refused(host)
            return _proxied(proxy, host, port, f"http://{parts.netloc}{target}", target, self._tls if secure else None)
        connection: http.client.HTTPConnection
        if secure:
            connection = http.client.HTTPSConnection(host, port, timeout=_READ_SECONDS, context=self._tls)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_READ_SECONDS)
        connection.response_class = _Response
        # The hook that the class itself calls to connect; TLS still checks the certificate against the name.
        connection._create_connection = _connector(check_private)  # type: ignore[attr-defined]
        return connection, target


class _Response(http.client.HTTPResponse):
    """A response that ends with TimeoutError if its status and headers, or what `allow` allows, take too long in all.

    The timeout of a socket begins again with each byte, and headers and the lines between chunks have no bound of bytes.
    """

    fp: io.BufferedReader

    def __init__(self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None):
        super().__init__(sock, debuglevel, method, url)
        self._timed = _TimedReader(self.fp.detach(), sock)
        self.fp = io.BufferedReader(self._timed)
        self.allow(_READ_SECONDS)

    def allow(self, seconds: float) -> None:
        """Allow reading for so long from now on."""
        self._timed.deadline = time.monotonic() + seconds


class _TimedReader(io.RawIOBase):
    """What a socket receives until a deadline."""

    def __init__(self, received: io.RawIOBase, connection: socket.socket) -> None:
        self._received = received
        self._connection = connection
        self.deadline = 0.0

    def readable(self) -> bool:
        """See the base."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """See the base. TimeoutError."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._received.readinto(buffer)

    def close(self) -> None:
        """See the base."""
        self._received.close()
        super().close()


class _Body:
    """The bytes of a response, exactly as many as were asked for."""

    def __init__(self, response: _Response, size: int, url: str) -> None:
        self._response = response
        self._left = size
        self._url = url

    def read(self, size: int) -> bytes:
        """See `ByteStream`."""
        try:
            # One call of the socket: `read` would wait for all of `size`, however slowly it comes.
            self._response.allow(_READ_SECONDS)
            found = self._response.read1(min(size, self._left))
        except (OSError, http.client.HTTPException) as error:
            raise _interrupted(self._url, error) from error
        if not found and self._left:
            raise TransferInterrupted(f"{urlsplit(self._url).hostname} ended the transfer early.")
        self._left -= len(found)
        return found


def _read_document(response: _Response, url: str) -> bytes:
    """The body, up to a byte over the limit of its size, within the limit of its time."""
    content = bytearray()
    response.allow(_DOCUMENT_SECONDS)
    try:
        while len(content) <= _MAX_DOCUMENT_BYTES and (block := response.read1(_MAX_DOCUMENT_BYTES + 1 - len(content))):
            content += block
    except (OSError, http.client.HTTPException) as error:
        raise _interrupted(url, error) from error
    return bytes(content)


def _check_status(response: http.client.HTTPResponse, url: str) -> None:
    host = str(urlsplit(url).hostname)
    if response.status in (408, 425, 429) or response.status >= 500:
        raise TransferInterrupted(f"{host} answers with status {response.status}.")
    if response.status >= 400:
        raise HttpStatus(response.status, response.headers.get("X-Error-Code", ""), host)
    if response.status not in (200, 206):
        raise FilesUnavailable(f"{host} answers with status {response.status}.")


def _proxy(scheme: str, host: str) -> str | None:
    if urllib.request.proxy_bypass_environment(host):  # type: ignore[attr-defined]
        return None
    return urllib.request.getproxies_environment().get(scheme)


def _proxied(
    proxy: str, host: str, port: int, url: str, target: str, tls: ssl.SSLContext | None
) -> tuple[http.client.HTTPConnection, str]:
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    through, connection = str(parts.hostname), None
    if tls is None:
        connection = http.client.HTTPConnection(through, parts.port or 80, timeout=_READ_SECONDS)
        target = url
    else:
        connection = http.client.HTTPSConnection(through, parts.port or 80, timeout=_READ_SECONDS, context=tls)
        connection.set_tunnel(host, port)
    connection.response_class = _Response
    return connection, target


def _connector(check_private: bool) -> Any:
    def connect(address: tuple[str, int], timeout: float, source: Any = None) -> socket.socket:
        host, port = address
        last: OSError = OSError("no address")
        for family, kind, protocol, _, found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            if check_private and _is_private(str(found[0]).partition("%")[0]):
                raise _refused(host)
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(_CONNECT_SECONDS)
                connection.connect(found)
                connection.settimeout(timeout)
                return connection
            except OSError as error:
                connection.close()
                last = error
        raise last

    return connect


def _is_private(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.sixtofour:
            parsed = parsed.sixtofour
        elif any(parsed in network for network in _ENDING_IN_IPV4):
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return not parsed.is_global


def _is_private_literal(host: str) -> bool:
    """Whether a proxy would take a host for a private address; what it resolves other names to, it alone knows."""
    name = host.rstrip(".").partition("%")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        return _is_private(name)
    with contextlib.suppress(OSError, ValueError):
        return _is_private(socket.inet_ntoa(socket.inet_aton(name)))  # also of forms such as 127.1 and 0x7f000001
    return False


def _refused(host: str) -> FilesUnavailable:
    return FilesUnavailable(
        f"{host} is a private address, which no repository may lead to. If it is yours, the operator sets "
        "LLMARINER_MODEL_PRIVATE_ADDRESSES=1."
    )


def _interrupted(url: str, error: Exception) -> TransferInterrupted:
    # The name of the error and the host only: URLs of content networks contain signatures.
    return TransferInterrupted(f"{urlsplit(url).hostname} does not answer: {type(error).__name__}.")
