"""From what a function says of itself to the Kubernetes objects that run it.

`functions/*/func.yaml` and `eventing/*/trigger.yaml` are the declarations; everything below `manifests/base` follows
from them, and a test fails when it does not. `python -m llmariner.manifests` writes, `--check` compares.
"""
