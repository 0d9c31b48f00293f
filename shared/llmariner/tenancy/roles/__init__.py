"""Scopes, built-in and custom roles, effective permissions, and who may grant which role."""
