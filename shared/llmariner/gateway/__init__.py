"""Inference requests: authentication, limits, admission, relay, metering. Heaviest imports: httptools and orjson."""
