"""Usage: the ledger of what each request on the token path used, prices, and reports."""
