"""What one machine has in the place of a cluster: a project's jobs as pods, to be read."""
