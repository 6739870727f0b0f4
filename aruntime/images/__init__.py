"""Images: their names, the content store, archives, and the safe unpacking of layers."""
