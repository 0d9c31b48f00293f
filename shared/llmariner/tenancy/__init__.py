"""Organizations, projects, users and API keys: who exists, which roles they hold, and which callers they authenticate."""
