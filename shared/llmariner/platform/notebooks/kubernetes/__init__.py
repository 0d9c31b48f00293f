"""Notebooks adapter for clusters: a volume claim, a Service, and for each start a `batch/v1` Job, admitted by Kueue."""
