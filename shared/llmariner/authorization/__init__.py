"""Who may do what, as the code says it: every route's scope and rule, every role's scopes, and the page that shows both."""
