"""Copies of models' files in the object store of a cluster's installation: made in slices, each content once."""
