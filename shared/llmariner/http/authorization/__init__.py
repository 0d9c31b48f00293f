"""Authentication and access checks of functions with a database, as FastAPI dependencies."""
