"""Serving adapter for clusters: a model is a KServe InferenceService, awake when its Deployment has replicas.

`objects`: what we apply. `reading`, `phases`: what the cluster's objects are, and what they say of a model. `transitions`:
what we change. `directory`: what is asked of the registry. `adapter`: the port.
"""
