"""What an installation does once on its cluster, each as a Job that may be run again at any time: secrets, migrations."""
