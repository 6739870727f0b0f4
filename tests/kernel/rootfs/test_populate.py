"""Filling a volume with what the image has where it will be mounted."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from aruntime.rootfs import overlay, volumes

pytestmark = pytest.mark.kernel


@pytest.fixture(name="volume")
def _volume(tmp_path: Path) -> Path:
    """Return the directory of a new volume."""
    return Path(volumes.create(str(tmp_path / "volumes"), "data").path)


@pytest.fixture(name="layers")
def _layers(tmp_path: Path) -> list[Path]:
    """Return three layers, lowest first, that hide and replace each other's files."""
    found = [tmp_path / name for name in ("low", "middle", "top")]
    for layer in found:
        (layer / "data/dir").mkdir(parents=True)
    low, middle, top = found
    (low / "data/dir/kept").write_text("kept")
    (low / "data/removed").write_text("removed")
    (low / "data/replaced").write_text("low")
    (low / "data/opaque").mkdir()
    (low / "data/opaque/hidden").write_text("hidden")
    (middle / "data/replaced").write_text("middle")
    os.mknod(middle / "data/removed", stat.S_IFCHR, 0)
    (top / "data/opaque").mkdir()
    os.setxattr(top / "data/opaque", "trusted.overlay.opaque", b"y")
    (top / "data/opaque/new").write_text("new")
    (top / "data/link").symlink_to("/etc/passwd")
    return found


def content(directory: Path) -> dict[str, str]:
    """Return every file below a directory with its text, links with their targets."""
    found = {}
    for base, _, names in os.walk(directory):
        for name in names:
            path = Path(base, name)
            text = os.readlink(path) if path.is_symlink() else path.read_text()
            found[str(path.relative_to(directory))] = text
    return found


def test_layers_are_merged(volume: Path, layers: list[Path]) -> None:
    """Whiteouts and opaque directories count; a link is copied, never followed."""
    assert volumes.populate(str(volume), list(map(str, layers)), "/data")

    assert content(volume) == {
        "dir/kept": "kept",
        "replaced": "middle",
        "opaque/new": "new",
        "link": "/etc/passwd",
    }
    assert os.listxattr(volume / "opaque") == []


def test_merged_as_on_older_kernels(layers: list[Path]) -> None:
    """The way for kernels before 6.8 gives the same tree."""
    fd = overlay.open_readonly_by_string([str(layer) for layer in layers])

    found = content(Path(f"/proc/self/fd/{fd}/data"))

    os.close(fd)
    assert sorted(found) == ["dir/kept", "link", "opaque/new", "replaced"]


def test_too_many_layers_for_older_kernels(layers: list[Path]) -> None:
    """What does not fit is refused, not cut."""
    with pytest.raises(OSError, match="too many"):
        overlay.open_readonly_by_string([str(layers[0])] * 100)


def test_everything_a_file_has_is_copied(volume: Path, layers: list[Path]) -> None:
    """Owner, mode, set-user-id, xattrs, capabilities, times, hard links, holes, fifos, devices."""
    source = layers[0] / "data"
    program = source / "program"
    program.write_text("x")
    os.chown(program, 12, 34)
    program.chmod(0o4751)
    os.setxattr(program, "user.note", b"\x00\xff")
    os.setxattr(program, "security.capability", bytes.fromhex("0100000200040000" + "0" * 24))
    os.utime(program, ns=(1_000_000_001, 2_000_000_002))
    os.link(program, source / "dir/hard")
    with open(source / "sparse", "wb") as file:
        file.seek(64 << 20)
        file.write(b"end")
    os.mkfifo(source / "fifo")
    (source / "fifo").chmod(0o620)
    os.mknod(source / "device", stat.S_IFCHR | 0o640, os.makedev(10, 229))
    source.chmod(0o2770)
    os.chown(source, 5, 6)

    assert volumes.populate(str(volume), [str(layers[0])], "/data")

    copy = os.stat(volume / "program")
    assert (copy.st_uid, copy.st_gid, stat.S_IMODE(copy.st_mode)) == (12, 34, 0o4751)
    assert copy.st_mtime_ns == 2_000_000_002
    assert os.getxattr(volume / "program", "user.note") == b"\x00\xff"
    assert os.getxattr(volume / "program", "security.capability")
    assert os.stat(volume / "dir/hard").st_ino == copy.st_ino
    sparse = os.stat(volume / "sparse")
    assert (sparse.st_size, sparse.st_blocks * 512 < 1 << 20) == ((64 << 20) + 3, True)
    assert (volume / "sparse").read_bytes().endswith(b"\0end")
    assert stat.filemode(os.stat(volume / "fifo").st_mode) == "prw--w----"
    device = os.stat(volume / "device")
    assert (device.st_rdev, stat.filemode(device.st_mode)) == (os.makedev(10, 229), "crw-r-----")
    root = os.stat(volume)
    assert (root.st_uid, root.st_gid, stat.S_IMODE(root.st_mode)) == (5, 6, 0o2770)


def test_volume_with_content_is_left_alone(volume: Path, layers: list[Path]) -> None:
    """Only an empty volume is filled."""
    (volume / "mine").write_text("mine")

    assert not volumes.populate(str(volume), list(map(str, layers)), "/data")
    assert content(volume) == {"mine": "mine"}


@pytest.mark.parametrize("target", ["/nowhere", "/data/replaced", "/data/replaced/below"])
def test_image_without_such_a_directory(volume: Path, layers: list[Path], target: str) -> None:
    """Nothing to copy is no error."""
    assert not volumes.populate(str(volume), list(map(str, layers)), target)
    assert os.listdir(volume) == []


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("target", ["{host}", "/../../../..{host}", "/escape", "/escape/../x"])
def test_nothing_of_the_host_is_copied(
    volume: Path, layers: list[Path], tmp_path: Path, target: str, many: bool
) -> None:
    """Dots and links in the image or the target never leave the image (CVE-2022-23648)."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    (layers[0] / "escape").symlink_to(str(secret))
    lower = list(map(str, layers if many else layers[:1]))

    assert not volumes.populate(str(volume), lower, target.format(host=secret))
    assert os.listdir(volume) == []


def test_link_inside_the_image(volume: Path, layers: list[Path]) -> None:
    """A link that stays inside is followed, as the container would."""
    (layers[0] / "var").symlink_to("/data/dir")

    assert volumes.populate(str(volume), list(map(str, layers)), "/var")
    assert content(volume) == {"kept": "kept"}


def test_interrupted_copy_is_begun_again(volume: Path, layers: list[Path]) -> None:
    """What a crash left half copied does not count as the volume's content."""
    (volume.parent / volumes.POPULATING).touch()
    (volume / "half").write_text("ha")
    (volume / "sub").mkdir()

    assert volumes.populate(str(volume), list(map(str, layers)), "/data/dir")
    assert content(volume) == {"kept": "kept"}
    assert os.listdir(volume) == ["kept"]
    assert sorted(os.listdir(volume.parent)) == ["_data", "volume.json"]


def test_full_disk_is_an_error_and_no_half_volume(
    tmp_path: Path, layers: list[Path], in_small_tmpfs: Callable[[str], str]
) -> None:
    """When the space ends the copy fails, and the next attempt starts anew."""
    (layers[0] / "data/big").write_bytes(os.urandom(2 << 20))

    output = in_small_tmpfs(f"""
        from aruntime.rootfs import volumes
        import os
        path = volumes.create(root + "/volumes", "data").path
        for _ in range(2):
            try:
                volumes.populate(path, [{str(layers[0])!r}], "/data")
            except OSError as error:
                print(error.strerror, os.path.exists(os.path.dirname(path) + "/populating"))
        os.unlink({str(layers[0] / "data/big")!r})
        print(volumes.populate(path, [{str(layers[0])!r}], "/data"), sorted(os.listdir(path)))
    """)

    assert output.splitlines() == [
        "No space left on device True",
        "No space left on device True",
        "True ['dir', 'opaque', 'removed', 'replaced']",
    ]
