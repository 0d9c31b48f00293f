"""Signing in from the command line: the commands, the issuer, the loopback port, and the tokens that are kept."""
