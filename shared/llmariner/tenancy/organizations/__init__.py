"""Organizations and projects, the bootstrap of the first ones, and the paged queries of the admin API."""
