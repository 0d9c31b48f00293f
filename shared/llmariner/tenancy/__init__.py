"""Who may do what: organisations, projects, users and the API keys that act for them."""
