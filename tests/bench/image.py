"""The one image all engines run: busybox, and a file of lines to log."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

LINE = b"x" * 99 + b"\n"
LINES_BYTES = 10_000_000
"""Size of /lines; a multiple of the length of a line."""
NAME = "busybox:latest"


def write_tar(busybox: str, path: Path) -> None:
    """Write the root file system as a tar archive."""
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    with tarfile.open(path, "w") as tar:
        for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, content in (
            ("bin/busybox", Path(busybox).read_bytes()),
            ("lines", LINE * (LINES_BYTES // len(LINE))),
        ):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o755, len(content)
            tar.addfile(entry, io.BytesIO(content))
        for applet in applets.stdout.split():
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)


def unpack(tar: Path, directory: Path) -> None:
    """Unpack the root file system for the runtimes that take a directory."""
    subprocess.run(["/bin/tar", "-C", str(directory), "-xf", str(tar)], check=True)


def log_command(times: int) -> list[str]:
    """Return a command that writes /lines so many times, in the pieces of a stdio buffer."""
    words = " ".join(str(number) for number in range(times))
    return ["sh", "-c", f"for i in {words}; do dd if=/lines bs=64k 2>/dev/null; done"]
