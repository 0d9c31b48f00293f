"""API keys: storage, secrets, restrictions to models and networks, and rules for changing them."""
