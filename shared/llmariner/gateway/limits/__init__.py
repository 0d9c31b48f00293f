"""Rate limits, concurrency limits and budgets in one gateway process: quota leased from the control plane, spent
locally.
"""
