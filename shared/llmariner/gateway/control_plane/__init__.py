"""The port through which the token path asks for keys, models, limits and usage records, its HTTP client, and the wire form."""
