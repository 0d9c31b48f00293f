"""Users, memberships and service accounts, and the deprovisioning of their keys and roles."""
