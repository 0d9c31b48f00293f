"""Usage: one ledger of what each request on the token path used."""
