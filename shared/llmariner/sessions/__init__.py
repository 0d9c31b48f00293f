"""Requests of people to the Kubernetes API of a cluster, through the connections of its agent."""
