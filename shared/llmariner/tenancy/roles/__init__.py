"""Scopes, built-in and custom roles, effective permissions, and the rules for granting roles."""
