"""Serving adapter for several clusters: each model has its engines at home or on a worker cluster, whose adapter serves it.

`placements`: the port to the rows that say where, and to the choice of a cluster. `adapter`: the serving port. `moves`:
what the sweep does about drained clusters and leftovers.
"""
