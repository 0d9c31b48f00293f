"""`llma storage files`."""
