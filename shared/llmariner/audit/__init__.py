"""The audit log of administrative mutations and sign-ins: hash-chained, so that later changes are detectable."""
