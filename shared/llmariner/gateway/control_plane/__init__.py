"""The port to the control plane (keys, models, leases, usage records), its HTTP client and its JSON format."""
