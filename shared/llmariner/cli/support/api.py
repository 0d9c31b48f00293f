"""The client of the HTTP API; it translates all failures to CommandError.

The HTTP library is imported with the first request, so that help and completion stay fast.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias, cast
from urllib.parse import quote

import click

from llmariner.cli.support.configuration import Target
from llmariner.cli.support.errors import CommandError, ErrorResponse, ExitCode, api_error
from llmariner.cli.support.port_owners import is_own_listener
from llmariner.cli.support.response_bodies import BodyTooLarge, parse_json, read_body, read_error_body
from llmariner.cli.support.server_sent_events import Frame, FrameTooLarge, parse_frames

if TYPE_CHECKING:
    import httpx2

__all__ = ["ApiClient", "Download", "FileForm", "ReadableFile", "build_path"]

CONNECT_TIMEOUT_SECONDS = 5.0
REQUEST_TIMEOUT_SECONDS = 60.0
"""Seconds for requests without inference, which take the server milliseconds."""

GENERATION_TIMEOUT_SECONDS = 3600.0
"""Seconds for inference: the first byte may follow the start of a model and the generation of the whole answer."""

_FORM_ERRORS = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a command fails with that takes apart a document of another form than the API's."""

QueryValue: TypeAlias = str | int | Sequence[str] | None
"""A query parameter; a sequence is sent as repeated parameters, None is not sent."""


class ReadableFile(Protocol):
    """What the HTTP client needs of a file in a form: its length by `seek` to the end, then its bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; empty at the end."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to an offset; returns it."""

    def tell(self) -> int:
        """The present offset."""


@dataclass(frozen=True)
class FileForm:
    """A form (multipart/form-data, RFC 7578) with one file, which is read while it is sent."""

    file_field: str
    file_name: str
    content_type: str
    file: ReadableFile
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Download:
    """The response to a GET of bytes. `start`: the offset of the first byte of `chunks`. `etag`: empty if not sent."""

    start: int
    etag: str
    chunks: Iterator[bytes]


class ApiClient:
    """Sends requests to one target. Every failure raises `CommandError`.

    As a context it also translates what its block fails with once the server has answered: a server that is no platform,
    or one of another version, may answer anything.
    """

    def __init__(self, target: Target, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> None:
        import httpx2

        if target.own_listener_only and not is_own_listener(target.port):
            target = target.without_key()
        if target.is_unencrypted and target.api_key_source:
            click.echo(
                f"Warning: your key goes to {target.endpoint} unencrypted, for everybody in between to read; use https.",
                err=True,
            )
        headers = {
            "accept": "application/json",
            "openai-organization": target.organization,
            "openai-project": target.project,
            "authorization": f"Bearer {target.api_key.reveal()}" if target.api_key_source else "",
        }
        plain_local = target.is_local and target.endpoint.startswith("http://")
        self._target = target
        self._has_answered = False
        self._client = httpx2.Client(
            headers=_validated_headers({name: value for name, value in headers.items() if value}),
            # A configured proxy cannot reach the loopback interface of this machine.
            trust_env=not plain_local,
            # Loading the system's certificates takes 0.1 s, a third of a short command, and plain HTTP needs none.
            verify=not plain_local,
            timeout=httpx2.Timeout(timeout_seconds, connect=CONNECT_TIMEOUT_SECONDS),
        )

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        if self._has_answered and isinstance(error, _FORM_ERRORS):
            raise CommandError(
                ExitCode.SERVER_ERROR,
                f"{self._target.endpoint} answered in another form than llma knows ({type(error).__name__}: {error}).",
                next_step="compare `llma version` with the server's, and check --endpoint.",
            ) from error

    def get(self, path: str, **query: QueryValue) -> dict[str, Any]:
        """The response document of GET; query parameters of None are not sent."""
        return self._send("GET", path, query=query)

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        """The response document of POST. `timeout_seconds`: for work that takes the server longer than usual."""
        timeout = None if timeout_seconds is None else _timeout(timeout_seconds)
        return self._send("POST", path, body=body or {}, timeout=timeout)

    def post_form(self, path: str, form: FileForm) -> dict[str, Any]:
        """The response document of POST with a file, however long it takes as long as the server takes bytes."""
        import httpx2

        # After the last byte the server may still check the whole file.
        timeout = httpx2.Timeout(
            GENERATION_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS, write=REQUEST_TIMEOUT_SECONDS
        )
        return self._send("POST", path, form=form, timeout=timeout)

    def patch(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The response document of PATCH."""
        return self._send("PATCH", path, body=body)

    def delete(self, path: str, **query: QueryValue) -> dict[str, Any]:
        """The response document of DELETE; query parameters of None are not sent."""
        return self._send("DELETE", path, query=query)

    def generate(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The response document of a POST for inference, which may first start a model.

        The header raises the server's default wait of a minute, which suits programs that retry.
        """
        wait = {"prefer": f"wait={GENERATION_TIMEOUT_SECONDS:.0f}"}  # RFC 7240
        return self._send("POST", path, body=body, headers=wait, timeout=_generation_timeout())

    def all_pages(self, path: str, *, max_records: int | None = None, **query: QueryValue) -> dict[str, Any]:
        """One list object with the records of all pages, or with the first `max_records` of them.

        CommandError for a list that leads back to one of its pages.
        """
        document = self.get(path, **query)
        records, cursors = list(_records(document)), set[str]()
        while document.get("has_more") and _records(document) and (max_records is None or len(records) < max_records):
            if (cursor := _cursor(document)) in cursors:
                raise CommandError(
                    ExitCode.SERVER_ERROR,
                    f"the list {path} of {self._target.endpoint} does not end.",
                    next_step="compare `llma version` with the server's.",
                )
            cursors.add(cursor)
            document = self.get(path, **query, after=cursor)
            records += _records(document)
        truncated = bool(document.get("has_more")) or (max_records is not None and len(records) > max_records)
        return {**document, "data": records[:max_records], "has_more": truncated and max_records is not None}

    @contextmanager
    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Iterator[Frame]]:
        """Yields the frames of an event stream; leaving the block closes the connection."""
        request_id: str | None = None
        try:
            with (
                self._translated_errors(),
                self._client.stream(
                    "POST",
                    self._url(path),
                    json=dict(body),
                    headers={"accept": "text/event-stream"},
                    timeout=_generation_timeout(),
                ) as response,
            ):
                request_id = response.headers.get("x-request-id")
                self._check_stream(response)
                yield parse_frames(response.iter_bytes())
        except CommandError as error:  # the consumer of the frames raises it too, without access to the headers
            error.request_id = error.request_id or request_id
            raise

    @contextmanager
    def event_stream(self, path: str, stalled_seconds: float, **query: QueryValue) -> Iterator[Iterator[Frame]]:
        """Yields the frames of an event stream of GET. Raises CommandError when none arrives for `stalled_seconds`."""
        accept = {"accept": "text/event-stream"}
        with self._get_stream(path, accept, query, timeout_seconds=stalled_seconds) as response:
            self._check_stream(response)
            yield parse_frames(response.iter_bytes())

    @contextmanager
    def download(self, path: str, **query: QueryValue) -> Iterator[Iterator[bytes]]:
        """Yields the chunks of the response to GET, for responses of any length."""
        with self._get_stream(path, {}, query) as response:
            yield response.iter_bytes()

    @contextmanager
    def download_from(self, path: str, start: int, *, stalled_seconds: float) -> Iterator[Download]:
        """Yields the bytes of a resource from `start` on (RFC 9110, section 14), or from 0 if the server has no ranges.

        Raises CommandError also when no byte arrives for `stalled_seconds`.
        """
        headers = {"accept-encoding": "identity"}  # a range of a compressed form would not fit to other ranges
        if start:
            headers["range"] = f"bytes={start}-"
        with self._get_stream(path, headers, {}, timeout_seconds=stalled_seconds) as response:
            yield Download(_range_start(response), response.headers.get("etag", ""), response.iter_bytes())

    @contextmanager
    def _get_stream(
        self,
        path: str,
        headers: Mapping[str, str],
        query: Mapping[str, QueryValue],
        *,
        timeout_seconds: float = GENERATION_TIMEOUT_SECONDS,
    ) -> Iterator[httpx2.Response]:
        with (
            self._translated_errors(),
            self._client.stream(
                "GET",
                self._url(path),
                params=_query_params(query),
                headers={"accept": "*/*", **headers},
                timeout=_timeout(timeout_seconds),
            ) as response,
        ):
            if not response.is_success:
                raise self._error_from(response)
            yield response

    def _check_stream(self, response: httpx2.Response) -> None:
        if not response.is_success:
            raise self._error_from(response)
        if "text/event-stream" not in response.headers.get("content-type", ""):
            raise self._unexpected_response(response, "did not answer with an event stream")
        self._has_answered = True

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, QueryValue] | None = None,
        body: Mapping[str, Any] | None = None,
        form: FileForm | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
    ) -> dict[str, Any]:
        with (
            self._translated_errors(),
            self._client.stream(
                method,
                self._url(path),
                params=_query_params(query or {}),
                json=None if body is None else dict(body),
                data=dict(form.fields) if form else None,
                files={form.file_field: (form.file_name, cast("IO[bytes]", form.file), form.content_type)}
                if form
                else None,
                headers=dict(headers or {}),
                timeout=timeout or self._client.timeout,
            ) as response,
        ):
            if not response.is_success:
                raise self._error_from(response)
            content = read_body(response)
        try:
            document = parse_json(content)
        except ValueError:
            raise self._unexpected_response(response, "did not answer with JSON") from None
        self._has_answered = True
        if not isinstance(document, dict):
            raise self._unexpected_response(response, "did not answer with a JSON object")
        return document

    def _url(self, path: str) -> str:
        return f"{self._target.endpoint}/{path}"

    def _error_from(self, response: httpx2.Response) -> CommandError:
        error_response = ErrorResponse.parse(response.status_code, response.headers, read_error_body(response))
        return api_error(error_response, key_source=self._target.api_key_source)

    def _unexpected_response(self, response: httpx2.Response, why: str) -> CommandError:
        return CommandError(
            ExitCode.SERVER_ERROR,
            f"{self._target.endpoint} {why}.",
            next_step=f"check --endpoint (it came from {self._target.endpoint_source}): it ends in /v1.",
            request_id=response.headers.get("x-request-id"),
        )

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        import httpx2

        try:
            yield
        except (
            httpx2.ConnectError,
            httpx2.ConnectTimeout,
            httpx2.ProxyError,
            httpx2.UnsupportedProtocol,
        ) as error:
            raise self._connection_error(error) from error
        except httpx2.InvalidURL as error:
            raise CommandError(
                ExitCode.USAGE, f"{self._target.endpoint}: {error}.", next_step="correct --endpoint."
            ) from error
        except httpx2.TimeoutException as error:
            raise CommandError(
                ExitCode.SERVER_ERROR,
                f"{self._target.endpoint} took the request but did not answer in time.",
                next_step="look at `llma status`, then try again.",
            ) from error
        except httpx2.TransportError as error:
            raise CommandError(
                ExitCode.SERVER_ERROR,
                f"the connection to {self._target.endpoint} broke ({error or type(error).__name__}).",
                next_step="try again; `llma status` and `llma logs` tell whether an engine went down.",
            ) from error
        except (httpx2.DecodingError, BodyTooLarge, FrameTooLarge) as error:
            raise CommandError(
                ExitCode.SERVER_ERROR,
                f"{self._target.endpoint} sent what llma does not read ({error}).",
                next_step=f"check --endpoint (it came from {self._target.endpoint_source}).",
            ) from error

    def _connection_error(self, error: Exception) -> CommandError:
        if "CERTIFICATE" in str(error).upper():
            next_step = "if the server's certificate is your organization's own, name its CA file in SSL_CERT_FILE."
        elif self._target.is_local:
            next_step = "run `llma up` to start the platform on this machine, or name another with --endpoint."
        else:
            next_step = "check --endpoint and the network, or run `llma up` for a platform on this machine."
        return CommandError(
            ExitCode.UNREACHABLE,
            f"cannot reach {self._target.endpoint} ({self._target.endpoint_source}): {error}.",
            next_step=next_step,
        )


def _query_params(query: Mapping[str, QueryValue]) -> dict[str, str | int | Sequence[str]] | None:
    return {name: value for name, value in query.items() if value is not None} or None


def _generation_timeout() -> httpx2.Timeout:
    return _timeout(GENERATION_TIMEOUT_SECONDS)


def _timeout(seconds: float) -> httpx2.Timeout:
    import httpx2

    return httpx2.Timeout(seconds, connect=CONNECT_TIMEOUT_SECONDS)


def _range_start(response: httpx2.Response) -> int:
    """The offset of a response's first byte, by `Content-Range: bytes 5-9/10` of a 206."""
    found = re.match(r"bytes (\d{1,19})-", response.headers.get("content-range", ""))
    return int(found[1]) if response.status_code == 206 and found else 0


def build_path(*segments: str) -> str:
    """The URL path of segments and ids, percent-encoded except slashes, which model ids contain."""
    for segment in segments:
        if not segment or ".." in segment.split("/"):
            raise click.UsageError(f"{segment!r} cannot be an id.")
    return "/".join(quote(segment, safe="/") for segment in segments)


def _records(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    # The other names are LLMariner's in lists of batch jobs, of notebooks and of the clusters of jobs.
    data = next((document[name] for name in ("data", "jobs", "notebooks", "clusters") if name in document), None)
    return data if isinstance(data, list) else []


def _cursor(document: Mapping[str, Any]) -> str:
    """The value of `after`: `last_id`, else the last record's cursor (where ids repeat), else its id."""
    last = _records(document)[-1]
    return str(document.get("last_id") or last.get("cursor") or last["id"])


def _validated_headers(headers: dict[str, str]) -> dict[str, str]:
    """The headers; CommandError for characters that HTTP forbids, such as a line break in a pasted key."""
    for name, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            what = "API key" if name == "authorization" else name
            raise CommandError(
                ExitCode.USAGE,
                f"the {what} holds characters that no HTTP header may carry.",
                next_step="copy it again, without line breaks or quotes, and set it again.",
            )
    return headers
