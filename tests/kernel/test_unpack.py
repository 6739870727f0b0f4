"""Unpacking layers with real owners, devices, attributes and overlayfs; and every known attack."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aruntime.daemon.unpacking import import_image
from aruntime.errors import InvalidArchive, Unavailable
from aruntime.images import layers, removal
from aruntime.images.compression import Limits
from aruntime.images.layout import LayerRecord
from aruntime.images.store import Store
from aruntime.kernel import mounts
from tests import archives
from tests.archives import directory, entry, file, hard_link, symlink

pytestmark = pytest.mark.kernel

CANARY = b"untouched"


class Unpacked:
    """A directory to unpack into, with something outside that must stay as it is."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.canary = base / "canary"
        self.canary.write_bytes(CANARY)
        self.canary.chmod(0o640)
        self.root = base / "outer" / "layer"
        self.root.mkdir(parents=True)
        self.before = self.outside()

    def outside(self) -> object:
        """Everything around the layer that an attack could change."""
        status = self.canary.stat()
        return (
            sorted(os.listdir(self.base)),
            sorted(os.listdir(self.base / "outer")),
            self.canary.read_bytes(),
            (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_nlink),
            sorted(os.listdir("/")),
        )

    def unpack(
        self,
        *members: archives.Member,
        below: tuple[Path, ...] = (),
        limits: Limits | None = None,
    ) -> LayerRecord:
        """Unpack these members and check that nothing outside has changed."""
        return self.unpack_bytes(archives.tar(*members), below=below, limits=limits)

    def unpack_bytes(
        self, content: bytes, *, below: tuple[Path, ...] = (), limits: Limits | None = None
    ) -> LayerRecord:
        """Unpack an archive and check that nothing outside has changed."""
        try:
            return layers.unpack(
                io.BytesIO(content).read,
                str(self.root),
                [str(path) for path in below],
                limits or Limits(),
                strict_end=True,
            )
        finally:
            assert self.outside() == self.before

    def names(self) -> list[str]:
        """Paths of everything that was unpacked."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


@pytest.fixture(name="layer")
def _layer(tmp_path: Path) -> Iterator[Unpacked]:
    before = os.umask(0)
    yield Unpacked(tmp_path)
    os.umask(before)


def below(tmp_path: Path, *members: archives.Member, name: str = "lower") -> Path:
    """Unpack a lower layer."""
    path = tmp_path / "outer" / name
    path.mkdir(parents=True)
    content = io.BytesIO(archives.tar(*members))
    layers.unpack(content.read, str(path), [], Limits(), strict_end=True)
    return path


# What archives say about files.


def test_owners_modes_and_times(layer: Unpacked) -> None:
    """Numbers are taken as they are, set-id bits and nanoseconds included."""
    record = layer.unpack(
        directory(".", mode=0o711, uid=3, mtime=1000),
        directory("d", mode=0o2775, uid=1, gid=50, mtime=2000),
        file("d/suid", b"x", mode=0o4755, uid=7, gid=8, mtime=3000),
        file("d/plain", b"yy", mode=0o600, pax_headers={"mtime": "1700000000.123456789"}),
        symlink("d/link", "suid", uid=9, gid=10, mtime=4000),
        entry("d/fifo", tarfile.FIFOTYPE, mode=0o622, uid=11),
    )

    def seen(name: str) -> tuple[int, int, int, float]:
        status = os.lstat(layer.root / name)
        return status.st_mode & 0o7777, status.st_uid, status.st_gid, status.st_mtime_ns / 1e9

    assert seen(".") == (0o711, 3, 0, 1000)
    assert seen("d") == (0o2775, 1, 50, 2000)
    assert seen("d/suid") == (0o4755, 7, 8, 3000)
    assert os.lstat(layer.root / "d/plain").st_mtime_ns == 1_700_000_000_123_456_789
    assert seen("d/plain")[:3] == (0o600, 0, 0)  # not the group of the set-group-id directory
    assert seen("d/link")[1:] == (9, 10, 4000)
    assert seen("d/fifo")[:2] == (0o622, 11)
    assert record == LayerRecord(size=3, entries=6, depends=False, root=(0o711, 3, 0))


def test_devices(layer: Unpacked) -> None:
    """Device nodes are made as the archive says; the device cgroup guards them later."""
    layer.unpack(
        entry("null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3),
        entry("disk", tarfile.BLKTYPE, mode=0o660, gid=6, devmajor=8, devminor=300),
    )

    null, disk = os.stat(layer.root / "null"), os.stat(layer.root / "disk")
    assert stat.S_ISCHR(null.st_mode)
    assert (null.st_rdev, null.st_mode & 0o7777) == (os.makedev(1, 3), 0o666)
    assert stat.S_ISBLK(disk.st_mode)
    assert (disk.st_rdev, disk.st_gid) == (os.makedev(8, 300), 6)


def test_attributes_that_mean_something_are_kept(layer: Unpacked) -> None:
    """File capabilities and user attributes are set; overlayfs' own and the host's never are."""
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    headers = {
        "SCHILY.xattr.user.note": "kept",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.metacopy": "",
        "SCHILY.xattr.user.overlay.redirect": "/etc",
        "SCHILY.xattr.security.selinux": "system_u",
        "SCHILY.xattr.security.capability": capability.decode("latin-1"),
    }

    layer.unpack(
        directory("d", pax_headers={k: v for k, v in headers.items() if "capab" not in k}),
        file("d/f", b"", uid=5, mode=0o755, pax_headers=headers),
    )

    assert set(os.listxattr(layer.root / "d")) <= {"user.note"}
    assert set(os.listxattr(layer.root / "d/f")) == {"user.note", "security.capability"}
    assert os.getxattr(layer.root / "d/f", "security.capability") == capability


def test_hard_links(layer: Unpacked) -> None:
    """Both names are one file, to a link as well as to a file."""
    layer.unpack(
        file("a", b"1"),
        symlink("s", "a"),
        hard_link("d/b", "./a"),
        hard_link("t", "/s"),
        hard_link("a", "a"),
    )

    assert os.path.samefile(layer.root / "a", layer.root / "d/b")
    assert os.readlink(layer.root / "t") == "a"
    assert os.lstat(layer.root / "t").st_ino == os.lstat(layer.root / "s").st_ino


def test_a_hard_link_into_the_layers_below(layer: Unpacked, tmp_path: Path) -> None:
    """The topmost layer that shows the target has it; a whiteout or opaque directory hides it."""
    bottom = below(tmp_path, file("d/a", b"bottom"), file("d/b", b"bottom"), file("x", b"1"))
    middle = below(tmp_path, file("d/a", b"middle"), file(".wh.x"), name="middle")
    opaque = below(tmp_path, file("d/.wh..wh..opq"), file("d/c", b"c"), name="opaque")
    layer.before = layer.outside()

    record = layer.unpack(hard_link("a", "d/a"), hard_link("b", "d/b"), below=(bottom, middle))

    assert record.depends
    assert (layer.root / "a").read_bytes() == b"middle"
    assert (layer.root / "b").read_bytes() == b"bottom"
    assert os.path.samefile(layer.root / "b", bottom / "d/b")
    for target, lower in (("x", (bottom, middle)), ("d/b", (bottom, opaque)), ("y", (bottom,))):
        with pytest.raises(InvalidArchive, match="does not exist"):
            layer.unpack(hard_link("z", target), below=lower)


def test_parents_that_are_not_listed_look_as_below(layer: Unpacked, tmp_path: Path) -> None:
    """An implied directory must not change mode and owner of the one it merges with."""
    lower = below(
        tmp_path,
        directory("a", mode=0o1777, uid=4, mtime=99, pax_headers={"SCHILY.xattr.user.k": "v"}),
        directory("a/b", mode=0o700, gid=5),
    )
    layer.before = layer.outside()

    record = layer.unpack(file("a/b/c/f"), below=(lower,))

    a, b, c = (os.stat(layer.root / path) for path in ("a", "a/b", "a/b/c"))
    assert (a.st_mode & 0o7777, a.st_uid, a.st_mtime) == (0o1777, 4, 99)
    assert os.getxattr(layer.root / "a", "user.k") == b"v"
    assert (b.st_mode & 0o7777, b.st_gid) == (0o700, 5)
    assert (c.st_mode & 0o7777, c.st_uid) == (0o755, 0)
    assert record.depends


def test_later_entries_replace_earlier_ones(layer: Unpacked) -> None:
    """Anything over anything; only a directory over a directory keeps what is in it."""
    layer.unpack(
        file("f", b"old"), file("f", b"new", mode=0o600),
        symlink("s", "/etc"), file("s", b"file"),
        directory("d"), file("d/in", b"1"), directory("d", mode=0o700),
        directory("e/sub"), file("e/sub/x"), file("e", b"flat"),
        symlink("g", "d"), directory("g"), file("g/y"),
        file("h"), symlink("h", "f"), hard_link("i", "f"), file("i", b"own"),
        directory("j/k"), file("j/k/l"), hard_link("j", "f"),
    )  # fmt: skip

    assert (layer.root / "f").read_bytes() == b"new"
    assert (layer.root / "s").read_bytes() == b"file"
    assert layer.names() == ["d", "d/in", "e", "f", "g", "g/y", "h", "i", "j", "s"]
    assert (layer.root / "d").stat().st_mode & 0o777 == 0o700
    assert (layer.root / "i").read_bytes() == b"own"
    assert os.path.samefile(layer.root / "j", layer.root / "f")


def test_a_directory_that_came_before_its_replacement_leaves_no_attributes(
    layer: Unpacked,
) -> None:
    """Attributes are set at the end, and only on the directory they were meant for."""
    layer.unpack(
        directory("other", mode=0o755),
        directory("d", mode=0o700),
        directory("d/sub", mode=0o700),
        symlink("d", "other"),
    )

    assert (layer.root / "other").stat().st_mode & 0o777 == 0o755
    assert os.readlink(layer.root / "d") == "other"


def test_sparse_files_stay_sparse(layer: Unpacked, tmp_path: Path) -> None:
    """Holes take no room, however large the file seems."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "big").open("wb") as sparse:
        sparse.seek(5 << 30)
        sparse.write(b"end")
        sparse.truncate(6 << 30)
    made = subprocess.run(
        ["tar", "-S", "--format=posix", "-C", str(source), "-cf", "-", "big"],
        capture_output=True,
        check=True,
    )
    layer.before = layer.outside()

    layer.unpack_bytes(made.stdout)

    status = os.stat(layer.root / "big")
    assert status.st_size == 6 << 30
    assert status.st_blocks * 512 < 1 << 20
    with (layer.root / "big").open("rb") as file:
        file.seek(5 << 30)
        assert file.read(4) == b"end\0"


# Whiteouts.


def merged(lowers: list[Path], command: str) -> str:
    """Run a command in the root of an overlay of layers, lowest first, in a mount namespace."""
    stack = ":".join(str(path) for path in reversed(lowers))
    script = f"mount -t overlay overlay -o ro,lowerdir={stack} /mnt && cd /mnt && {command}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-ec", script], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_whiteouts_work_in_overlayfs(layer: Unpacked, tmp_path: Path) -> None:
    """What a layer takes away is gone from the merged view; its own entries are not."""
    lower = below(
        tmp_path,
        file("gone"), file("kept"), directory("dir"), file("dir/old"), directory("opq"),
        file("opq/old"), directory("both"), file("both/old"), directory("first"), file("first/old"),
    )  # fmt: skip
    layer.before = layer.outside()

    layer.unpack(
        file(".wh.gone"), file(".wh.dir"),
        file("opq/new"), file("opq/.wh..wh..opq"),
        directory("both"), file("both/new"), file(".wh.both"),
        file(".wh.first"), file("first/new"),
        file(".wh.own"), file("own"),
        file(".wh..wh.aufs"), directory(".wh..wh.plnk"),
    )  # fmt: skip

    assert merged([lower, layer.root], "find . | sort").split() == [
        ".", "./both", "./both/new", "./first", "./first/new", "./kept", "./opq", "./opq/new",
        "./own",
    ]  # fmt: skip
    assert os.lstat(layer.root / "gone").st_rdev == 0
    assert os.getxattr(layer.root / "opq", "trusted.overlay.opaque") == b"y"


@pytest.mark.parametrize(
    "members",
    [
        [file(".wh.")],
        [file(".wh..")],
        [file(".wh...")],
        [file("d/.wh...")],
        [file(".wh.../x")],
        [file(".wh.d/x")],
        [directory("a"), file("a/.wh.b/c")],
    ],
)
def test_whiteouts_of_nothing_are_refused(layer: Unpacked, members: list[archives.Member]) -> None:
    """``.wh.`` alone, of ``.`` and of ``..``, and what lies inside one."""
    with pytest.raises(InvalidArchive):
        layer.unpack(*members)


# Attacks.


@pytest.mark.parametrize(
    "members",
    [
        [file("../canary", b"evil")],
        [file("a/../../canary", b"evil")],
        [file("/../canary", b"evil")],
        [hard_link("x", "../../canary")],
        [hard_link("x", "../canary"), file("x", b"evil")],
        [symlink(".", "/")],
        [symlink("./", "..")],
        [hard_link(".", "x")],
        [file("/", b"evil")],
        [hard_link("x", "/")],
        [hard_link("x", ".")],
        [file("f"), file("f/x", b"evil")],
        [symlink("loop", "loop"), file("loop/x")],
        [symlink("a", "b"), symlink("b", "a"), file("a/x")],
        [symlink("dangling", "nowhere"), file("dangling/x")],
        [symlink("s", "")],
        [directory("d"), hard_link("x", "d")],
        [hard_link("x", "missing")],
        [file("a" * 300)],
        [file("/".join(["d" * 200] * 30))],
        [entry("dev", tarfile.CHRTYPE, devmajor=1 << 20)],
        [file("a", pax_headers={"path": "a\0/../../canary"})],
        [symlink("a", "x", pax_headers={"linkpath": "x\0y"})],
    ],
)
def test_attacks_are_refused(layer: Unpacked, members: list[archives.Member]) -> None:
    """Each is an error of one line, and nothing outside is touched."""
    with pytest.raises(InvalidArchive) as caught:
        layer.unpack(*members)

    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("members", "inside"),
    [
        ([file("/canary", b"in")], ["canary"]),
        ([file("//../canary", b"in")], None),
        ([file("./a/./b//../c", b"in")], ["a", "a/c"]),
        ([symlink("a", "/"), file("a/canary", b"in")], ["a", "canary"]),
        ([symlink("a", ".."), file("a/canary", b"in")], ["a", "canary"]),
        ([symlink("a", "../../../.."), file("a/canary", b"in")], ["a", "canary"]),
        ([symlink("a", "/d"), directory("d"), file("a/b", b"in")], ["a", "d", "d/b"]),
        ([symlink("a", "/"), symlink("b", "a/.."), file("b/canary", b"in")],
         ["a", "b", "canary"]),
        ([symlink("a", "/"), directory("a/etc"), file("a/etc/passwd", b"in")],
         ["a", "etc", "etc/passwd"]),
        ([symlink("a", "/"), file("x", b"in"), hard_link("a/canary", "a/x")],
         ["a", "canary", "x"]),
        ([symlink("c", "../../canary"), file("c", b"in")], ["c"]),
        ([symlink("c", "../../canary"), hard_link("d", "c"), file("d", b"in")], ["c", "d"]),
        ([symlink("c", "../../canary"), directory("c", mode=0o777)], ["c"]),
        ([symlink("c", "../../canary", mode=0o777, uid=1000)], ["c"]),
        ([symlink("a", "/proc/self/root"), directory("proc/self/root"), file("a/canary", b"in")],
         ["a", "proc", "proc/self", "proc/self/root", "proc/self/root/canary"]),
        ([file("new\nline", b"in"), file("tab\t\x1b[31m", b"in")], ["new\nline", "tab\t\x1b[31m"]),
        ([file("..."), file("..a"), file("-rf")], ["-rf", "...", "..a"]),
    ],
)  # fmt: skip
def test_attacks_are_contained(
    layer: Unpacked, members: list[archives.Member], inside: list[str] | None
) -> None:
    """What docker accepts is accepted, resolved inside the layer as it would be in a container."""
    if inside is None:
        with pytest.raises(InvalidArchive):
            layer.unpack(*members)
        return
    layer.unpack(*members)

    assert layer.names() == inside


def test_an_opaque_mark_through_a_link_stays_inside(layer: Unpacked, tmp_path: Path) -> None:
    """A whiteout below a symbolic link acts where the link leads in the layer."""
    layer.unpack(
        directory("d"),
        symlink("up", ".."),
        symlink("l", "/d"),
        file("l/.wh..wh..opq"),
        file("l/.wh.x"),
        file("up/.wh.y"),
    )

    assert os.getxattr(layer.root / "d", "trusted.overlay.opaque") == b"y"
    assert (layer.root / "d/x").is_char_device()
    assert (layer.root / "y").is_char_device()
    assert "trusted.overlay.opaque" not in os.listxattr(tmp_path)


def test_a_link_cannot_be_swapped_under_a_directory(layer: Unpacked) -> None:
    """Directories kept open are forgotten when an entry changes what their path means."""
    layer.unpack(
        directory("a/b"),
        file("a/b/1"),
        directory("other"),
        symlink("a/b", "/other"),
        file("a/b/2"),
        file("a", b"flat"),
        directory("a"),
        directory("a/b"),
        file("a/b/3"),
    )

    assert layer.names() == ["a", "a/b", "a/b/3", "other", "other/2"]


def header_with_size(size: bytes) -> bytes:
    """Return the header of a file that claims a size."""
    block = bytearray(tarfile.TarInfo("huge").tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("exponent", [33, 62, 63, 64, 80])
def test_huge_sizes_are_refused(layer: Unpacked, exponent: int) -> None:
    """A header can claim anything; the file ends where the stream does."""
    size = b"\x80" + (1 << exponent).to_bytes(11, "big")

    with pytest.raises(InvalidArchive, match="'huge'"):
        layer.unpack_bytes(header_with_size(size) + b"some content")


def test_a_sparse_file_beyond_the_file_system(layer: Unpacked) -> None:
    """A hole larger than any file is an error of the archive."""
    with pytest.raises(InvalidArchive):
        layer.unpack(
            file(
                "x",
                b"12345",
                pax_headers={"GNU.sparse.map": f"{1 << 61},5", "GNU.sparse.size": f"{1 << 62}"},
            )
        )


def test_entries_are_counted(layer: Unpacked) -> None:
    """A million empty files is a bomb too."""
    with pytest.raises(InvalidArchive, match="more than 10 entries"):
        layer.unpack(*(file(f"f{number}") for number in range(11)), limits=Limits(entries=10))

    assert len(layer.names()) == 10


def test_very_deep_trees_can_be_replaced_and_removed(layer: Unpacked, tmp_path: Path) -> None:
    """Two thousand levels exhaust neither stack nor descriptors."""
    deep = "/".join(["d"] * 2000)

    layer.unpack(directory(deep), file(f"{deep}/f"), file("d", b"flat"), directory(f"e/{deep}"))

    assert (layer.root / "d").read_bytes() == b"flat"
    parent = os.open(layer.root.parent, os.O_RDONLY)
    try:
        removal.remove_tree(parent, b"layer")
    finally:
        os.close(parent)
    assert os.listdir(tmp_path / "outer") == []


def test_removal_follows_no_link(tmp_path: Path) -> None:
    """A tree full of links out of it takes nothing along, and a link is no tree."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(CANARY)
    tree = tmp_path / "tree"
    (tree / "sub/deeper").mkdir(parents=True)
    (tree / "sub/deeper/link").symlink_to(outside)
    (tree / "link").symlink_to(outside)
    (tmp_path / "alias").symlink_to(outside)
    parent = os.open(tmp_path, os.O_RDONLY)
    try:
        removal.remove_tree(parent, b"tree")
        with pytest.raises(NotADirectoryError):
            removal.remove_tree(parent, b"alias")
        with pytest.raises(FileNotFoundError):
            removal.remove_tree(parent, b"tree")
    finally:
        os.close(parent)

    assert (outside / "kept").read_bytes() == CANARY


PARTS = st.sampled_from(
    ["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "c\n", "x" * 120, "canary"]
)
PATHS = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
MEMBERS = st.builds(
    lambda name, kind, link, content, mode: entry(
        name or "e", kind, content if kind == tarfile.REGTYPE else b"", linkname=link, mode=mode
    ),
    PATHS,
    st.sampled_from(
        [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]
    ),
    st.one_of(PATHS, st.sampled_from(["/", "/etc", "../../canary", "..", "../.."])),
    st.binary(max_size=20),
    st.integers(0, 0o7777),
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(members=st.lists(MEMBERS, max_size=8))
def test_no_sequence_of_entries_gets_out(
    tmp_path_factory: pytest.TempPathFactory, members: list[archives.Member]
) -> None:
    """Fuzz: any entries in any order are unpacked inside, or refused."""
    base = tmp_path_factory.mktemp("fuzz")
    umask = os.umask(0)
    try:
        layer = Unpacked(base)
        layer.unpack(*members)
    except InvalidArchive:
        pass
    finally:
        os.umask(umask)
        parent = os.open(base.parent, os.O_RDONLY)
        removal.remove_tree(parent, os.fsencode(base.name))
        os.close(parent)


# Full disks.


@pytest.fixture(name="small_disk")
def _small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        mounts.mount("tmpfs", str(path), "tmpfs", 0, options)
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        mounts.umount2(str(path), 0)


@pytest.mark.parametrize("options", ["size=1m", "nr_inodes=40"])
def test_a_full_disk_is_told_and_leaves_nothing(
    small_disk: Callable[[str], Path], tmp_path: Path, options: str
) -> None:
    """No room for bytes or no room for files: one line says what to do, the store is clean."""
    root = small_disk(options)
    store = Store(str(root))
    archive = tmp_path / "a.tar"
    archive.write_bytes(archives.tar(*(file(f"f{n}", bytes(40_000)) for n in range(60))))
    try:
        with archive.open("rb") as source, pytest.raises(Unavailable, match=r"full.*free some"):
            trio.run(import_image, store, source.fileno())

        assert store.list() == []
        for name in ("ingest", "layers", "blobs/sha256"):
            assert os.listdir(f"{store.base}/{name}") == []
    finally:
        store.close()
