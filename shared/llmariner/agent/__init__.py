"""The agent of a worker cluster: it connects the cluster to a control plane, by outbound connections alone."""
