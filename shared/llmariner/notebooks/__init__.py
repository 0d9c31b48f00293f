"""Notebooks of projects: JupyterLab with files that are kept, and a key of its own for the platform."""
