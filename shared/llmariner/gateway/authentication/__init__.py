"""API keys and tokens on the token path: a cache of decisions, failed attempts by address, tokens between services."""
