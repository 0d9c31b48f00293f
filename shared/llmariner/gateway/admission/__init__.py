"""Admission of requests to engines: the queue per model (the waiting room), engine replicas, and checks of models."""
