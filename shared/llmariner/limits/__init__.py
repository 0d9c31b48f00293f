"""How much: limits on requests, tokens and concurrency, and budgets of money, leased to gateways in slices."""
