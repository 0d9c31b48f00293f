"""Groups of an OpenID Connect issuer, the roles they grant, and the memberships that follow from them."""
