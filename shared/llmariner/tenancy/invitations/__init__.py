"""Invitations by e-mail: created, accepted, revoked, and whether they are pending."""
