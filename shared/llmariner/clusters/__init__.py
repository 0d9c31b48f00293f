"""Domain package of clusters: the Kubernetes clusters on which an installation runs its work, and their agents."""
