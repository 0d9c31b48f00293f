"""Files of projects: their rows, their contents in the object store, quotas, purposes and events."""
