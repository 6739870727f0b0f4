"""Every failure that aruntime foresees, as one tree.

Leaf module: it imports nothing of aruntime, so that any layer may raise from it. A message is one
line, lower case, without a full stop: what happened, why, and what to do about it. Failures of
the kernel stay ``OSError`` until a caller can say what they mean. A container that exits with a
code other than 0 is a value, never an exception.

The categories follow moby's errdefs; they are mapped to exit codes of the command line in one
place (``EXIT_CODE`` of each class) and later to HTTP status codes (``HTTP_STATUS``).
"""

from __future__ import annotations

import errno


class AruntimeError(Exception):
    """A failure that is reported to the user as one line.

    Attributes:
        EXIT_CODE: exit code of the command that fails with it (docker's convention: 125 when
            the runtime failed, 126 when the command could not be invoked, 127 when it was not
            found).
        HTTP_STATUS: status code of an HTTP reply that carries it.
    """

    EXIT_CODE = 125
    HTTP_STATUS = 500

    @property
    def message(self) -> str:
        """The text without the class name; line breaks never reach the user's terminal."""
        return " ".join(str(self).splitlines())


class NotFound(AruntimeError):
    """The named object does not exist."""

    HTTP_STATUS = 404


class ContainerNotFound(NotFound):
    """No container has this id, id prefix or name."""


class ImageNotFound(NotFound):
    """No local image has this reference or id."""


class NetworkNotFound(NotFound):
    """No network has this name."""


class VolumeNotFound(NotFound):
    """No volume has this name."""


class Conflict(AruntimeError):
    """The request contradicts the present state."""

    HTTP_STATUS = 409


class ContainerExists(Conflict):
    """The container name is taken."""


class InvalidTransition(Conflict):
    """The container is not in a state that allows the operation."""


class ImageInUse(Conflict):
    """A container holds the image."""


class InvalidParameter(AruntimeError):
    """A value given by the user is wrong."""

    HTTP_STATUS = 400


class UsageError(InvalidParameter):
    """The command line cannot be parsed."""


class InvalidSpec(InvalidParameter):
    """A field of an OCI specification is wrong."""


class InvalidReference(InvalidParameter):
    """An image reference is malformed."""


class InvalidArchive(InvalidParameter):
    """An archive is broken, hostile or of an unknown kind."""


class Unavailable(AruntimeError):
    """Something the request needs is missing on this host or used up."""

    HTTP_STATUS = 503


class ControllerUnavailable(Unavailable):
    """A limit needs a cgroup controller that is not mounted."""


class KernelFeatureMissing(Unavailable):
    """The running kernel lacks a feature."""


class AddressPoolExhausted(Unavailable):
    """The subnet has no free address."""


class DaemonUnavailable(Unavailable):
    """No daemon answers."""


class ShimUnavailable(Unavailable):
    """The shim cannot be started or does not answer."""


class RegistryFailed(Unavailable):
    """A registry cannot be reached, or does not do what one must."""


class AccessDenied(AruntimeError):
    """A registry refuses what it was asked, or wants to know who asks."""

    HTTP_STATUS = 403


class InitFailed(AruntimeError):
    """The container's init could not be set up or could not execute its program.

    Attributes:
        step: the step that failed, in words ("mount overlay", "execve").
        errno: the error number of the failing system call, 0 when there was none.
        path: the file concerned, or an empty string.
    """

    def __init__(self, message: str, *, step: str, errno: int = 0, path: str = "") -> None:
        super().__init__(message)
        self.step = step
        self.errno = errno
        self.path = path


class CommandNotFound(InitFailed):
    """The program of the container does not exist (exit code 127)."""

    EXIT_CODE = 127
    HTTP_STATUS = 400


class CommandNotInvokable(InitFailed):
    """The program of the container exists but cannot be executed (exit code 126)."""

    EXIT_CODE = 126
    HTTP_STATUS = 400


FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def os_error_text(error: OSError) -> str:
    """Word a failed system call for a user: path, reason and, for a full disk, what to do."""
    reason = (error.strerror or str(error)).lower()
    place = f"{error.filename}: " if error.filename else ""
    advice = "; free some and try again" if error.errno in FULL else ""
    return f"{place}{reason}{advice}"
