"""Limits and budgets in one gateway instance: quota is leased from the control plane and spent locally."""
