"""Ports and their adapters: the only packages that import third-party SDKs."""
