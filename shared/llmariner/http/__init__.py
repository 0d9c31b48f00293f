"""What functions that are not on the token path share: the function adapter, the API factory, authentication, errors."""
