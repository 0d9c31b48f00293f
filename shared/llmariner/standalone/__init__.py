"""Standalone mode: the platform on one machine, with all functions in one process, SQLite, engines as child processes."""
