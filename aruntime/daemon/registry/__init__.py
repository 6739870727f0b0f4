"""Registries: how images come from other hosts and go there (OCI distribution-spec v1.1)."""
