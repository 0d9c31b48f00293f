"""`llma`: the command line, a client of the public HTTP API like any other.

Nothing here knows a database or an engine. Four commands (up, down, doctor, logs) act on this machine instead
of on an endpoint; they call `llmariner.standalone` and live in `platform.py` alone.
"""
