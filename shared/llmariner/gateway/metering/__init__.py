"""Tokens and cost of each request: counting, pricing, batched ledger events, and metrics in Prometheus' text format."""
