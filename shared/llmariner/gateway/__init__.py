"""The token path: authenticate, limit, admit, wait, relay, meter. Imports nothing heavier than httptools and orjson."""
