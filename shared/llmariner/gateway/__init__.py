"""Inference requests: authentication, limits, admission, relay and metering. Imports nothing heavier than httptools and orjson."""
