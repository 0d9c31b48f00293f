"""Sign-in with a token of an OpenID Connect issuer: account matching, just-in-time provisioning, refused attempts."""
