"""HTTP layer of the functions off the token path: entry points, the FastAPI factory, authentication, errors, schemas."""
