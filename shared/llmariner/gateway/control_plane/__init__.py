"""The port by which the token path gets keys, models, limits and usage records; its HTTP client and JSON."""
