"""Users, memberships and service accounts, and what ends when one of them leaves."""
