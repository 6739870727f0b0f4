"""Containers one by one: state, store, launch payload, init, exec; no daemon, no async."""
