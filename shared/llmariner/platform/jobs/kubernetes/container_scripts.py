"""The shell scripts of a job's containers, and the exit codes by which they tell how a container ended."""

from __future__ import annotations

from llmariner.platform.jobs.kubernetes.authority import AUTHORITY_FILE
from llmariner.platform.jobs.kubernetes.output import KEEP

__all__ = ["FETCH", "FETCH_FAILED", "GRACE_SECONDS", "RUN", "TERMINATED"]

GRACE_SECONDS = 20
FETCH_FAILED = 96
"""The exit code of the container that fetches the data files where one can't be had."""
TERMINATED = 243
"""The exit code of a container that the kubelet ended from outside, as when its pod is deleted or preempted."""
RUN = f"""\
ended() {{
  trap '' TERM
  kill -TERM "$child" 2>/dev/null
  n=0
  while kill -0 "$child" 2>/dev/null && [ $n -lt {GRACE_SECONDS - 5} ]; do sleep 1; n=$((n + 1)); done
  exit {TERMINATED}
}}
trap ended TERM
/bin/sh -c "$1" 2>&1 &
child=$!
wait "$child"
code=$?
[ $code -ne {TERMINATED} ] || [ "$2" = own ] || code=1
if [ "$3" = 0 ] && [ -f {KEEP} ]; then
  /bin/sh {KEEP} &
  child=$!
  wait "$child"
fi
exit $code
"""
"""Runs the command of its first argument. The first process of a container ignores signals that it has no handler for.

A command that ends with the code `TERMINATED` by itself has failed: the platform would begin it again without end. The
second argument is `own` for a program of the platform's own, which says by this code that it lost another worker. The third
is the worker's number: the first one uploads what the command left.
"""
FETCH = f"""\
set -u
fetch() {{
  n=0
  until get "$1" "./$2"; do
    n=$((n + 1))
    [ $n -lt 6 ] || exit {FETCH_FAILED}
    sleep $((n * 2))
  done
}}
if command -v curl >/dev/null; then
  get() {{ curl -fsSL -o "$2" "$1"; }}
elif command -v python3 >/dev/null; then
  get() {{ python3 -I -c 'import sys, urllib.request as r; r.urlretrieve(*sys.argv[1:])' "$1" "$2"; }}
elif command -v wget >/dev/null; then
  get() {{ wget -q -O "$2" "$1"; }}
else
  echo "Data files need curl, python3 or wget in the image." >&2
  exit 1
fi
if [ -s {AUTHORITY_FILE} ]; then
  export SSL_CERT_FILE=/tmp/authorities.crt CURL_CA_BUNDLE=/tmp/authorities.crt
  cat /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt {AUTHORITY_FILE} 2>/dev/null >$SSL_CERT_FILE
fi
cd /data
"""
"""Fetches with what the image has, in the order of what tells errors best."""
