"""Groups of an OpenID Connect issuer, the roles they give, and the memberships that follow from them."""
