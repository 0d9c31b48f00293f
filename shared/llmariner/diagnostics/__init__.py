"""Read-only diagnostics of a Kubernetes cluster: checks with remedies, and the status of the platform's objects."""
