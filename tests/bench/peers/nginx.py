"""nginx: the cheapest reverse proxy there is, which reads neither keys nor usage. The floor for a relay."""

from __future__ import annotations

import shutil

from ..children import free_port
from ..environments import UnavailableError
from ..target import Site, Target

CONFIGURATION = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream engine {{ server 127.0.0.1:{engine}; keepalive 256; keepalive_requests 10000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 3600s;
        }}
    }}
}}
"""


def target(site: Site) -> Target:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise UnavailableError("no nginx on this machine (Debian package nginx-light)")
    port = free_port()
    configuration = site.folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=site.folder, engine=site.engine_port, port=port))
    return Target("nginx", [program, "-p", str(site.folder), "-c", str(configuration)], port)
