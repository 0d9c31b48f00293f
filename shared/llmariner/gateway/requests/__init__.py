"""From request bytes to a validated model request: HTTP handling, parsing, field checks, limits of size and structure."""
