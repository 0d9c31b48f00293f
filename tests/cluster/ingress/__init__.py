"""The test cluster's ingress for Knative: Ingress objects become routes of an Envoy.

Knative's own ingresses (Kourier, Istio, Contour) are not among the Go modules that can be had; this does what they do and
no more. `routes`: from objects to Envoy's configuration. `__main__`: the loop that keeps it so.
"""
