"""Quotas: the GPUs, cores and memory that the models, jobs and notebooks of a project or an organization may hold."""
