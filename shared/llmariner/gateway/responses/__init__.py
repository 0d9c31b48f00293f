"""Responses of the gateway: heads, error bodies, relayed streams, and heartbeats of waiting requests."""
