"""Generates the Kubernetes manifests from the declarations of functions and event consumers.

`functions/*/func.yaml` and `eventing/*/trigger.yaml` are the declarations; everything below `manifests/base` is
generated from them. `python -m llmariner.manifests` writes the files, `--check` compares them.
"""
