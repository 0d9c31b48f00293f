"""Inference requests: authentication, limits, admission, relay, metering. Imports nothing heavier than httptools and orjson."""
