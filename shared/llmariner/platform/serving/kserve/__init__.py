"""Serving adapter for clusters: a model is a KServe InferenceService, awake when its Deployment has replicas.

`objects`: manifests that are applied. `cluster_reader`, `phases`: read the cluster's objects and derive a status.
`transitions`: changes to objects. `model_lookup`: the port to the registry. `adapter`: the serving port.
"""
