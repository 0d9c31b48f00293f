"""Validation as an API server does it, without a server: upstream's CRDs, applied in a server's order.

Default, structure, lists, CEL. Strict as `kubectl --validate=strict`: an unknown field or a null is a fault.
What webhooks and controllers decide is left to a real cluster, and to the assertions of our own tests.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import ipaddress
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cel
import cel.stdlib
import jsonschema_rs
import yaml

__all__ = ["Schemas", "folder"]

# What upstream's projects publish of their kinds (upstream.md says which versions, and how it is made again).
ARCHIVE = Path(__file__).with_name("upstream.tar.xz")

# Core kinds, at the server version that the platform is tested on; CRDs say nothing of them.
CORE = "kubernetes/v1.34.0/_definitions.json"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

# JSON Schema's words that mean the same in OpenAPI; formats and descriptions are left out on purpose.
SAME_WORDS = re.compile(r"\$ref|const|enum|multipleOf|pattern|required|uniqueItems|(exclusive)?(min|max)[A-Za-z]+")

# Fields that a server accepts in every embedded object.
EMBEDDED = ("apiVersion", "kind", "metadata")

SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")

# A field whose name CEL reserves is reached as __name__, signs are spelled out (Kubernetes' page on CEL).
CEL_WORDS = re.compile(
    "true|false|null|in|as|break|const|continue|else|for|function|if|import|let|loop|package|namespace|return"
    "|var|void|while"
)
CEL_SIGNS = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))


def folder() -> Path:
    """The folder of upstream's schemas: `LLMARINER_CRDS`, else the archive beside this file, unpacked into the cache.

    The folder is named by the archive's hash and appears whole or not at all, also when several processes unpack it.
    """
    if named := os.environ.get("LLMARINER_CRDS"):
        return Path(named).resolve()
    digest = hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()[:12]
    place = (
        Path(os.environ.get("LLMARINER_CACHE") or Path.home() / ".cache" / "llmariner") / "upstream-schemas" / digest
    )
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            with tarfile.open(ARCHIVE) as archive:
                archive.extractall(scratch, filter="data")
            # Another process may have been first: its content is the same.
            with contextlib.suppress(OSError):
                Path(scratch, "schemas").rename(place)
    return place


@dataclass(frozen=True)
class _Kind:
    """One kind at one version: the schema as upstream wrote it, and the validator of its structure."""

    schema: dict[str, Any]
    validator: jsonschema_rs.Draft202012Validator


class Schemas:
    """The schemas in one folder, each read at its first use: InferenceService alone takes half a second."""

    def __init__(self, root: Path) -> None:
        self._core: dict[str, Any] = _without_null(json.loads((root / CORE).read_text())["$defs"])
        self._definitions = {name: _structure(schema) for name, schema in self._core.items()}
        self._files = dict(_index(root))
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def faults(self, body: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
        """Every reason to refuse the creation of `body`, or its taking the place of `old`; none: it is admitted.

        LookupError: no such kind.
        """
        kind = self._kind(body["apiVersion"], body["kind"])
        filled = copy.deepcopy(body)
        self._default(kind.schema, filled)
        broken = [f"{_dotted(e.instance_path)}: {e.message}" for e in kind.validator.iter_errors(filled)]
        # Rules rely on the types that the structure promises, so they are not asked of a body that breaks it.
        return [*_metadata_faults(body["metadata"]), *(broken or self._rules(kind.schema, filled, old, []))]

    def fill(self, body: dict[str, Any]) -> None:
        """Set what the kind's schema defaults, in place. LookupError: no such kind."""
        self._default(self._kind(body["apiVersion"], body["kind"]).schema, body)

    def prune(self, body: dict[str, Any]) -> list[str]:
        """Remove fields that are not in the schema, in place; returns their paths. LookupError: no such kind."""
        return list(self._pruned(self.schema(body), body, []))

    def schema(self, body: dict[str, Any]) -> dict[str, Any]:
        """The schema of the kind that `body` names, as upstream wrote it. LookupError: no such kind."""
        return self._kind(body["apiVersion"], body["kind"]).schema

    def child(self, schema: dict[str, Any], key: Any) -> dict[str, Any]:
        """The schema of a property, or (any key) of an item; an empty one where nothing is said."""
        if "items" in schema:
            return self.resolved(schema["items"])
        described = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
        return self.resolved(described) if isinstance(described, dict) else {}

    def _kind(self, version: str, name: str) -> _Kind:
        if (version, name) not in self._kinds:
            group, _, served = version.rpartition("/")
            schema = self._custom(group, served, name) or self._of_core(group, served, name)
            validator = jsonschema_rs.Draft202012Validator({**_structure(schema), "$defs": self._definitions})
            self._kinds[version, name] = _Kind(schema, validator)
        return self._kinds[version, name]

    def _custom(self, group: str, served: str, name: str) -> dict[str, Any] | None:
        if (group, name) not in self._files:
            return None
        crd = yaml.load(self._files[group, name].read_text(), Loader=yaml.CSafeLoader)
        versions = {each["name"]: each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"]}
        if served not in versions:
            raise LookupError(f"{group} {name} is served as {', '.join(versions)}, not {served}")
        schema: dict[str, Any] = versions[served]
        # A server accepts these three in every kind, and in metadata the same as in core kinds.
        text = {"type": "string"}
        always = {"apiVersion": text, "kind": text, "metadata": {"$ref": f"#/$defs/{OBJECT_META}"}}
        schema["properties"] = {**schema["properties"], **always}
        return schema

    def _of_core(self, group: str, served: str, name: str) -> dict[str, Any]:
        wanted = {"group": group, "kind": name, "version": served}
        for schema in self._core.values():
            if wanted in schema.get("x-kubernetes-group-version-kind", []):
                return schema  # type: ignore[no-any-return]
        raise LookupError(f"no schema for {group}/{served} {name}")

    def resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The schema itself, or the core definition that it refers to."""
        name: str = schema.get("$ref", "").rpartition("/")[2]
        return self._core[name] if name else schema

    def _default(self, schema: dict[str, Any], value: Any) -> None:
        """Fill absent properties in place; never into absent parents, as a server does it."""
        schema = self.resolved(schema)
        if isinstance(value, dict):
            for key, described in schema.get("properties", {}).items():
                if key not in value and "default" in described:
                    value[key] = copy.deepcopy(described["default"])
        for _, described, child in _children(schema, value):
            self._default(described, child)

    def _pruned(self, schema: dict[str, Any], value: Any, path: list[Any]) -> Iterator[str]:
        schema = self.resolved(schema)
        named, open_ = schema.get("properties"), schema.get("x-kubernetes-preserve-unknown-fields")
        if isinstance(value, dict) and named and not open_ and "additionalProperties" not in schema:
            known = {*named, *(EMBEDDED if schema.get("x-kubernetes-embedded-resource") else ())}
            for key in value.keys() - known:
                del value[key]
                yield _dotted([*path, key])
        for key, described, child in _children(schema, value):
            yield from self._pruned(described, child, [*path, key])

    def _rules(self, schema: dict[str, Any], value: Any, old: Any, path: list[Any]) -> Iterator[str]:
        """Faults that JSON Schema cannot express: keys of lists, and CEL. `old` None: there was nothing here before."""
        schema = self.resolved(schema)
        if isinstance(value, list) and (twice := _duplicates(schema, value)):
            yield f"{_dotted(path)}: duplicate {twice}"
        for rule in schema.get("x-kubernetes-validations", []):
            # Rules with oldSelf judge updates only.
            if "oldSelf" in rule["rule"] and old is None:
                continue
            if why := _broken(rule["rule"], self._for_cel(schema, value), self._for_cel(schema, old)):
                yield f"{_dotted(path)}: {rule.get('message', rule['rule'])} ({why})"
        for key, described, child in _children(schema, value):
            yield from self._rules(described, child, _before(schema, old, key, child), [*path, key])

    def _for_cel(self, schema: dict[str, Any], value: Any) -> Any:
        """`value` as CEL sees it: property names escaped (map keys never), numbers as doubles."""
        schema = self.resolved(schema)
        if schema.get("type") == "number" and isinstance(value, int):
            return float(value)
        if not isinstance(value, dict | list):
            return value
        seen = {key: self._for_cel(described, child) for key, described, child in _children(schema, value)}
        if isinstance(value, list):
            return [seen.get(index, item) for index, item in enumerate(value)]
        named = schema.get("properties", {})
        return {_escaped(k) if k in named else k: seen.get(k, child) for k, child in value.items()}


def _index(root: Path) -> Iterator[tuple[tuple[str, str], Path]]:
    """(group, kind) of every CRD, by indentation: parsing 20 MB of YAML for two words would take seconds."""
    for path in sorted(root.glob("*/*.yaml")):
        text = path.read_text()
        if group := re.search(r"^  group: (\S+)$", text, re.MULTILINE):
            for kind in re.findall(r"^    kind: (\S+)$", text, re.MULTILINE):
                yield (group[1], kind), path


def _without_null(node: Any) -> Any:
    """The core definitions let every optional field be null, which a server drops without a word."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    cleared = {key: _without_null(value) for key, value in node.items()}
    if isinstance(node.get("type"), list):
        cleared["type"] = next(each for each in node["type"] if each != "null")
    return cleared


def _structure(schema: dict[str, Any], *, whole: bool = True) -> dict[str, Any]:
    """JSON Schema 2020-12 of an OpenAPI schema; `whole` says that its properties are all there may be.

    Branches of anyOf, oneOf, allOf and not name some of the properties only, so they never close an object.
    """
    kept: dict[str, Any] = {key: value for key, value in schema.items() if SAME_WORDS.fullmatch(key)}
    if schema.get("x-kubernetes-int-or-string"):
        return {**kept, "type": ["integer", "string"]}
    if "type" in schema:
        kept["type"] = [schema["type"], "null"] if schema.get("nullable") else schema["type"]
    for key in {"anyOf", "oneOf", "allOf"} & schema.keys():
        kept[key] = [_structure(branch, whole=False) for branch in schema[key]]
    if "not" in schema:
        kept["not"] = _structure(schema["not"], whole=False)
    if "items" in schema:
        kept["items"] = _structure(schema["items"], whole=whole)
    return {**kept, **_members(schema, whole)}


def _members(schema: dict[str, Any], whole: bool) -> dict[str, Any]:
    """`properties` and `additionalProperties` of an object."""
    properties = {key: _structure(value, whole=whole) for key, value in schema.get("properties", {}).items()}
    if schema.get("x-kubernetes-embedded-resource"):
        own = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        properties = {**own, **properties}
    members: dict[str, Any] = {"properties": properties} if properties else {}
    if isinstance(schema.get("additionalProperties"), dict):
        members["additionalProperties"] = _structure(schema["additionalProperties"], whole=whole)
    elif whole and properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        members["additionalProperties"] = False
    return members


def _children(schema: dict[str, Any], value: Any) -> Iterator[tuple[Any, dict[str, Any], Any]]:
    """(key or index, schema, child) of every child that the schema describes."""
    if isinstance(value, list) and "items" in schema:
        yield from ((index, schema["items"], item) for index, item in enumerate(value))
    elif isinstance(value, dict):
        named, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key, child in value.items():
            described = named.get(key, others)
            if isinstance(described, dict):
                yield key, described, child


def _duplicates(schema: dict[str, Any], items: list[Any]) -> str:
    """What occurs twice in a list that is a map or a set, or nothing."""
    kind = schema.get("x-kubernetes-list-type")
    keys: list[str] = schema.get("x-kubernetes-list-map-keys", [])
    if kind == "map" and len({json.dumps([item.get(k) for k in keys]) for item in items}) < len(items):
        return ", ".join(keys)
    return "item" if kind == "set" and len({json.dumps(item) for item in items}) < len(items) else ""


def _before(schema: dict[str, Any], old: Any, key: Any, child: Any) -> Any:
    """What stood in the place of a child: found by name, in a list that is a map by its keys, in others not at all."""
    if isinstance(old, dict):
        return old.get(key)
    keys: list[str] = schema.get("x-kubernetes-list-map-keys", [])
    if isinstance(old, list) and keys and isinstance(child, dict):
        return next((item for item in old if all(item.get(k) == child.get(k) for k in keys)), None)
    return None


def _broken(rule: str, value: Any, old: Any) -> str:
    """Why the rule does not hold; a rule that cannot be evaluated does not."""
    try:
        held = _program(rule).execute(cel.Context({"self": value, "oldSelf": old}, _FUNCTIONS))
    except Exception as error:
        return str(error)
    return "" if held is True else "CEL"


@functools.cache
def _program(rule: str) -> cel.Program:
    return cel.compile(rule)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# All that these CRDs call beyond CEL's own functions. A rule that wants more cannot be evaluated, and fails.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "isIP": _is_ip,
    "split": cel.stdlib.split,
    "substring": cel.stdlib.substring,
}


def _escaped(name: str) -> str:
    if CEL_WORDS.fullmatch(name):
        return f"__{name}__"
    for sign, spelled in CEL_SIGNS:
        name = name.replace(sign, spelled)
    return name


def _metadata_faults(metadata: dict[str, Any]) -> Iterator[str]:
    if not SUBDOMAIN.fullmatch(metadata.get("name", "")):
        yield f"metadata.name: {metadata.get('name')!r} is no DNS-1123 subdomain"
    for key, value in metadata.get("labels", {}).items():
        if not (LABEL_KEY.fullmatch(key) and LABEL_VALUE.fullmatch(str(value))):
            yield f"metadata.labels: {key}={value} is no label"


def _dotted(path: list[Any]) -> str:
    return ".".join(map(str, path)) or "(root)"
