"""API keys and tokens on the token path: a cache of decisions, failed attempts by client address, tokens between services."""
