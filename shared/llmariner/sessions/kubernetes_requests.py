"""Requests of Kubernetes' API as its authorization sees them: a verb on a resource in a namespace, read from the path."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from urllib.parse import parse_qsl

from llmariner.errors import InvalidRequest, PermissionDenied
from llmariner.sessions.query_parameters import first_values, is_set

__all__ = ["KubernetesRequest", "parse_request"]

# One name per segment: nothing encoded, no `.` or `..`, no empty segment, so that every server reads the path alike.
_PATH = re.compile(rb"/v1/sessions/[A-Za-z0-9_-]{1,64}((?:/[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?){1,9})")
# Kubernetes drops parameters with a `;` or half a percent-encoding, and the audit log would show them.
_QUERY = re.compile(rb"(?:[!-\"$&-:<-~]|%[0-9A-Fa-f]{2})*")
_MAX_QUERY = 16 * 1024
_MAX_COMMAND = 1000
_DISCOVERY_LENGTHS = {"api": (1, 2), "apis": (1, 2, 3), "version": (1,)}
_CONNECT = frozenset({"exec", "attach", "portforward"})


@dataclass(frozen=True)
class KubernetesRequest:
    """`path` starts with `/api`, `/apis` or `/version`.

    `verb`: discover (without a resource), get, list, watch, create or connect.
    """

    method: str
    path: bytes
    query: bytes
    verb: str
    group: str = ""
    namespace: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def command(self) -> str:
        """The program that exec starts, with its arguments as a shell would quote them, shortened; empty without one."""
        words = [value for name, value in parse_qsl(self.query.decode(), keep_blank_values=True) if name == "command"]
        joined = "".join(each if each.isprintable() else "\ufffd" for each in shlex.join(words))
        return joined if len(joined) <= _MAX_COMMAND else f"{joined[: _MAX_COMMAND - 1]}\u2026"

    @property
    def target(self) -> bytes:
        """Path and query, as they are sent on."""
        return self.path + b"?" + self.query if self.query else self.path

    def __str__(self) -> str:
        words = [self.verb, "/".join(filter(None, (self.resource, self.name, self.subresource))) or self.path.decode()]
        return " ".join([*words, *(["in", self.namespace] if self.namespace else [])])


def parse_request(method: str, raw_path: bytes, query: bytes) -> KubernetesRequest:
    """Read a request below `/v1/sessions/{cluster_id}`. InvalidRequest for a path that is not plain.

    PermissionDenied for a path that belongs to no namespace: lists of all namespaces, objects of the cluster.
    """
    match = _PATH.fullmatch(raw_path)
    if match is None:
        raise InvalidRequest(
            "The path after the cluster's id must be one of Kubernetes' API: names of letters, digits, '.', '_' and '-', "
            "with single slashes, and nothing percent-encoded.",
            code="invalid_path",
        )
    if len(query) > _MAX_QUERY or not _QUERY.fullmatch(query):
        raise InvalidRequest(
            f"The query must be printable, have at most {_MAX_QUERY} bytes, and ';' and '%' percent-encoded.",
            code="invalid_query",
        )
    path = match[1]
    root, *parts = path.decode()[1:].split("/")
    if root not in _DISCOVERY_LENGTHS or (root == "api" and parts and parts[0] != "v1"):
        raise _not_namespaced(path)
    if 1 + len(parts) in _DISCOVERY_LENGTHS[root]:
        return KubernetesRequest(method, path, query, "discover" if method == "GET" else "create")
    if root == "version":
        raise _not_namespaced(path)
    group, rest = ("", parts[1:]) if root == "api" else (parts[0], parts[2:])
    if len(rest) not in (3, 4, 5) or rest[0] != "namespaces":
        raise _not_namespaced(path)
    _, namespace, resource, name, subresource = [*rest, "", ""][:5]
    verb = _verb(method, name, subresource, query)
    return KubernetesRequest(method, path, query, verb, group, namespace, resource, name, subresource)


def _verb(method: str, name: str, subresource: str, query: bytes) -> str:
    if subresource in _CONNECT:
        return "connect"
    if method != "GET":
        return "create"
    if name:
        return "get"
    return "watch" if is_set(first_values(query), "watch") else "list"


def _not_namespaced(path: bytes) -> PermissionDenied:
    return PermissionDenied(
        f"{path.decode()[:200]} is not inside a namespace. Through the platform you reach the namespaces of your project: "
        "name one, as in `kubectl -n NAMESPACE get pods`."
    )
