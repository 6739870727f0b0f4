"""The terminal in raw mode: every key goes to the container. Imported when it is asked for."""

import termios

TYPE_CHECKING = False
if TYPE_CHECKING:
    from termios import _AttrReturn


def enter(fd: int) -> "_AttrReturn":
    """Do as cfmakeraw(3) to a terminal; return its attributes as they were."""
    attributes = termios.tcgetattr(fd)
    saved = termios.tcgetattr(fd)
    attributes[0] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
        | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
    )  # fmt: skip
    attributes[1] &= ~termios.OPOST
    attributes[2] = attributes[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    attributes[3] &= ~(
        termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN
    )
    attributes[6][termios.VMIN], attributes[6][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSANOW, attributes)
    return saved
