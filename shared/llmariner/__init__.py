"""LLMariner on Knative: the package that functions, event consumers and the command line share."""

__version__ = "0.4.0"
