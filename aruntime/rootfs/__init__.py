"""A container's file tree: mounts as data, their execution, idmapped layers, volumes."""
