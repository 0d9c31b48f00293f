"""The model registry: models, their configuration, where their weights are, and how long their wakes took."""
