"""`llma`: the command line, a client of the public HTTP API.

It accesses no database and no engine. Four commands (up, down, doctor, logs) act on this machine instead of an
endpoint; they are in `platform.py` and call `llmariner.standalone`. `llma cluster` reads a Kubernetes cluster.
"""
