"""Puts the commands where a shell finds them, in the form that starts fastest.

    python -m aruntime.cli.link DIRECTORY

``aruntime`` becomes a script whose interpreter runs isolated and without ``site``: what an
environment holds beside this package costs its start two to three milliseconds, and the client
needs none of it. (Installers rewrite the first line of the script in a wheel and leave no room
for options.) ``aruntimed`` becomes a symbolic link.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

SCRIPT = """#!{interpreter} -IS
import sys

sys.path.append({package!r})
from aruntime.cli.client import main

main()
"""
MOST_SHEBANG_BYTES = 255
"""The kernel cuts a longer first line off (BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h)."""
USAGE = "usage: python -m aruntime.cli.link DIRECTORY"


def script(interpreter: str, package: str) -> str:
    """Return the client's script.

    Args:
        interpreter: its absolute path.
        package: the directory that holds the package.

    Raises:
        ValueError: the kernel cannot read such a path in a first line.
    """
    text = SCRIPT.format(interpreter=interpreter, package=package)
    first = text.partition("\n")[0]
    if len(os.fsencode(first)) > MOST_SHEBANG_BYTES or any(c.isspace() for c in interpreter):
        raise ValueError(
            f"{interpreter} cannot start scripts: its path has white space or is too long;"
            " install into another directory"
        )
    return text


def link(directory: Path) -> None:
    """Make both commands in a directory; what has their names there is replaced.

    Raises:
        ValueError: as :func:`script`.
        OSError: the directory cannot be written.
    """
    package = Path(__file__).resolve().parents[2]
    text = script(os.path.abspath(sys.executable), str(package))
    temporary = directory / f".aruntime.{os.getpid()}"
    try:
        temporary.write_text(text)
        temporary.chmod(0o755)
        temporary.rename(directory / "aruntime")
        temporary.symlink_to(Path(sys.executable).absolute().with_name("aruntimed"))
        temporary.rename(directory / "aruntimed")
    finally:
        temporary.unlink(missing_ok=True)


def main() -> int:
    """Run the command; returns its exit code."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.stderr.write(f"{USAGE}\n")
        return 2
    if not sys.flags.safe_path:
        # -m looks into the working directory first: in a checkout we would link that instead of
        # what is installed.
        arguments = [sys.executable, "-P", "-m", "aruntime.cli.link", *sys.argv[1:]]
        os.execv(sys.executable, arguments)
    try:
        link(Path(sys.argv[1]))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"aruntime: cannot link the commands: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
