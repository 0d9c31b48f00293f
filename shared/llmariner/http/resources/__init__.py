"""Handlers that several functions share: API keys, groups, roles, rate limits, spend alerts and limits."""
