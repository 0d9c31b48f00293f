"""Invitations by e-mail: made, accepted, withdrawn, and whether they still can be accepted."""
