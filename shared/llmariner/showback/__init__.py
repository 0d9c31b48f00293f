"""Showback: who held which accelerators, cores and memory for how long, and what that cost."""
