"""Models: what is registered, where its weights are, whether it may serve, how long it took to wake."""
