"""Label and field selectors, read from a query."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .kinds import Kind
from .status_errors import bad_request

__all__ = ["Test", "selector", "value_at"]

Test = Callable[[dict[str, Any]], bool]

# `a`, `!a`, `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, between commas.
TERM = re.compile(
    r"\s*(?:(?P<key>[\w./-]+)\s+(?P<set>in|notin)\s+\((?P<values>[^)]*)\)"
    r"|(?P<name>[\w./-]+)\s*(?P<sign>==?|!=)\s*(?P<value>[\w./:-]*)"
    r"|(?P<absent>!?)(?P<bare>[\w./-]+))\s*(?:,|$)"
)
# Core kinds support a few fields each; here it matters only that custom kinds support two.
ALWAYS = ("metadata.name", "metadata.namespace")


def selector(kind: Kind, labels: str, fields: str) -> Test:
    """Whether an object is wanted. StatusError (400): a selector that can't be read, or a field that isn't selectable."""
    tests = [*_label_tests(labels), *_field_tests(kind, fields)]
    return lambda body: all(test(body) for test in tests)


def value_at(body: Any, path: str) -> Any:
    """The value at a dotted path, or None."""
    for step in path.split("."):
        body = body.get(step) if isinstance(body, dict) else None
    return body


def _label_tests(text: str) -> list[Test]:
    tests: list[Test] = []
    at = 0
    while at < len(text):
        term = TERM.match(text, at)
        if term is None or term.end() == at:
            raise bad_request(f"unable to parse requirement: {text!r}")
        tests.append(_label_test(term))
        at = term.end()
    return tests


def _label_test(term: re.Match[str]) -> Test:
    if key := term["key"]:
        values, among = [value.strip() for value in term["values"].split(",")], term["set"] == "in"
        return lambda body: (_labels(body).get(key) in values) is among
    if name := term["name"]:
        value, same = term["value"], term["sign"] != "!="
        return lambda body: (_labels(body).get(name) == value) is same
    bare, present = term["bare"], not term["absent"]
    return lambda body: (bare in _labels(body)) is present


def _field_tests(kind: Kind, text: str) -> list[Test]:
    tests: list[Test] = []
    for term in filter(None, text.split(",")):
        found = re.fullmatch(r"([^=!]+)(==?|!=)(.*)", term)
        path, sign, value = found.groups() if found else ("", "", "")
        if not path or (kind.custom and path not in (*ALWAYS, *kind.selectable)):
            raise bad_request(f"field label not supported: {path or term}")
        tests.append(_field_test(path, value, sign != "!="))
    return tests


def _field_test(path: str, value: str, same: bool) -> Test:
    return lambda body: (str(value_at(body, path) or "") == value) is same


def _labels(body: dict[str, Any]) -> dict[str, str]:
    return body["metadata"].get("labels") or {}
