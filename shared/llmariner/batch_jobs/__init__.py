"""Batch jobs: general training jobs of projects, which run a command with scripts and files."""
