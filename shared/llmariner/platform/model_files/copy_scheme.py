"""The URIs of copies of models: `model-copy://<id>`."""

__all__ = ["COPY_SCHEME"]

COPY_SCHEME = "model-copy://"
