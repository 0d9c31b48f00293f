"""Serving adapter for clusters: a model is a KServe InferenceService, awake when its Deployment has replicas.

`objects`: what we apply. `phases`: what the cluster's objects say of a model. `adapter`: the port.
"""
