"""ASGI middleware of every function with a database: errors, CORS, content encoding, client address, readiness, outbox."""
