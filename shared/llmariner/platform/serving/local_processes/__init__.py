"""Serving adapter for one machine: engines as child processes, forked from a warm launcher within a memory budget."""
