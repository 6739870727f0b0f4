"""Cgroups that other programs made: found, named and metered like containers of our own.

    patterns   which cgroups are meant
    paths      what a path alone tells: docker, podman or Kubernetes, and the container's id
    watch      finding them as they come and go, by inotify
    docker, podman, bolt, kubernetes   what their programs wrote down about them
    identity   all of that together, as the meter wants it
    mark       which of them are older than their metering

Nothing here ever writes into a foreign cgroup or into another program's files.
"""
