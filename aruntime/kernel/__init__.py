"""Thin wrappers named as the system calls they make; no policy, standard library only."""
