"""Authentication on the token path: the key cache, failed attempts by address, and tokens between services."""
