"""Organizations and projects, the first of them, and the lists that their administrators read."""
