"""The OCI runtime specification's config.json: built from a container's configuration, checked.

Plain dicts in the shape of runtime-spec 1.1. Pure: nothing is read from the host and nothing is
done to it; what a field depends on (device numbers, volumes' directories, capabilities of the
daemon) is handed in. Below ``container``, so it knows its record by its fields only.
Out of scope: bundles on disk, compiling seccomp profiles, executing anything.
"""

from aruntime.spec.builder import OCI_VERSION, build
from aruntime.spec.capabilities import effective_capabilities, normalise_capabilities
from aruntime.spec.devices import default_device_rules, device_rule
from aruntime.spec.mounts import is_forbidden_target
from aruntime.spec.validation import validate

__all__ = [
    "OCI_VERSION",
    "build",
    "default_device_rules",
    "device_rule",
    "effective_capabilities",
    "is_forbidden_target",
    "normalise_capabilities",
    "validate",
]
