"""The steps of an installation, each run by an idempotent Kubernetes Job: secrets, migrations, the standby token."""
