"""Sign-in: the commands, the OAuth client, the loopback redirect, and the token file."""
