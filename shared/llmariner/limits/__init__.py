"""Limits on requests, tokens and concurrency, budgets of money, and their leases to gateway instances."""
