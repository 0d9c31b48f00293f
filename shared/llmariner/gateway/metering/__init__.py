"""Tokens and money of each request: counting, pricing, recording in batches, and the metrics in Prometheus format."""
