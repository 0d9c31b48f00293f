"""Graders: what gives an answer of a model a reward. They run in the platform and in the program of a job.

A job's process gets them in its archive, so they need nothing but the standard library.
"""
