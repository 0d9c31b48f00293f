"""Read-only diagnostics of a Kubernetes cluster: checks with remediations, and the status of the platform's objects."""
