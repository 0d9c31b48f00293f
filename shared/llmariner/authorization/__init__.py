"""The authorization matrix: each route's scope and object scope, each role's scopes, and the page that documents both."""
