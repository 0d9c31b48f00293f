"""From the bytes of a request to a validated model request: HTTP handling, parsing, field checks, bounds on size and structure."""
