"""`llma models`: list, create, update, pull."""
