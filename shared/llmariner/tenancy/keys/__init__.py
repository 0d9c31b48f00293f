"""API keys: what they are, what they may be made to do, from where they may be used, and their secrets."""
