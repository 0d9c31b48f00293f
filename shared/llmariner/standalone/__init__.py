"""The one-machine home: the same functions in one process, SQLite, engines as child processes."""
