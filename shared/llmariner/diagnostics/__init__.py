"""What an operator wants to know of a cluster: what it lacks, how to mend that, and how the platform does on it."""
