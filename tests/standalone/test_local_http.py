"""Commands connect to the platform of this machine directly, whatever proxy the environment names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

PROGRAM = """
import json, sys
from llmariner.standalone import local_http
url = sys.argv[1]
print(json.dumps([local_http.get(url, seconds=10), local_http.post(url, "sk-x", {"a": 1}, seconds=20)]))
"""


class _RecordingHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer({"path": self.path})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self._answer({"body": body, "key": self.headers["authorization"], "prefer": self.headers["prefer"]})

    def _answer(self, value: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_no_proxy_is_used_for_this_machine() -> None:
    server = HTTPServer(("127.0.0.1", 0), _RecordingHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = {name: value for name, value in os.environ.items() if name.lower() not in ("no_proxy", "all_proxy")}
    nobody = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"), "http://127.0.0.1:1")
    command = [sys.executable, "-c", PROGRAM, f"http://127.0.0.1:{server.server_port}/x"]
    try:
        done = subprocess.run(command, env=own | nobody, capture_output=True, text=True, timeout=60, check=False)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [{"path": "/x"}, {"body": {"a": 1}, "key": "Bearer sk-x", "prefer": "wait=10"}]
