"""The few calls to the API server that the lab's own controllers need, over the standard library alone."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from typing import Any

from .places import Lab

__all__ = ["Api", "ApiError"]

_WATCH_SECONDS = 600


class ApiError(Exception):
    """The API server refused; `status` is the HTTP code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Api:
    """A client with the administrator's certificate. One connection per call: calls are few."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._context = ssl.create_default_context(cafile=str(lab.certificates / "ca.crt"))
        self._context.load_cert_chain(lab.certificates / "admin.crt", lab.certificates / "admin.key")

    def get(self, path: str) -> dict[str, Any]:
        """An object, or a list."""
        return self._call("GET", path)

    def apply(self, path: str, body: dict[str, Any], manager: str) -> dict[str, Any]:
        """Apply on the server's side, taking fields over from other managers."""
        return self._call(
            "PATCH", f"{path}?fieldManager={manager}&force=true", body, content_type="application/apply-patch+yaml"
        )

    def merge(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Merge into an object."""
        return self._call("PATCH", path, body, content_type="application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete an object; it may be gone already."""
        try:
            self._call("DELETE", path)
        except ApiError as error:
            if error.status != http.HTTPStatus.NOT_FOUND:
                raise

    def watch(self, path: str) -> Iterator[dict[str, Any]]:
        """The objects of a list, then each that changes, until the server ends the watch.

        A deleted one has `deleted` true.
        """
        listed = self.get(path)
        for each in listed["items"]:
            yield {"deleted": False, "object": each}
        version = listed["metadata"]["resourceVersion"]
        query = f"watch=1&resourceVersion={version}&timeoutSeconds={_WATCH_SECONDS}"
        connection = self._connect(timeout=_WATCH_SECONDS + 30)
        connection.request("GET", f"{path}{'&' if '?' in path else '?'}{query}")
        with connection.getresponse() as answer:
            if answer.status >= http.HTTPStatus.BAD_REQUEST:  # one object, no events: it may take no watches yet
                raise _refusal(answer.status, answer.read())
            for line in answer:
                event = json.loads(line)
                if event["type"] == "ERROR":  # too old a version: list again
                    return
                if event["type"] != "BOOKMARK":
                    yield {"deleted": event["type"] == "DELETED", "object": event["object"]}

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._lab.address, 6443, context=self._context, timeout=timeout)

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, content_type: str = ""
    ) -> dict[str, Any]:
        connection = self._connect(timeout=30)
        headers = {"Content-Type": content_type} if content_type else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        with connection.getresponse() as answer:
            text = answer.read()
        connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise _refusal(answer.status, text)
        document: dict[str, Any] = json.loads(text)
        return document


def _refusal(status: int, text: bytes) -> ApiError:
    """Of a response that is a Kubernetes Status, or the text of something in between."""
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, TypeError, KeyError):
        message = text.decode(errors="replace")
    return ApiError(status, message)
