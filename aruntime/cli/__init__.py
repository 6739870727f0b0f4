"""The thin client, and what it does when no daemon answers."""
