"""``cp``: where things go by docker's rules, and what an archive can do to what is there."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aruntime.errors import AruntimeError, Conflict, InvalidArchive, NotFound
from aruntime.images.endpoints import Place, means_content, source_name, take
from aruntime.images.packing import Packer
from aruntime.images.placing import Interrupted, Placed, Rules, place_archive
from tests import archives

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away: needs root")

OWN = Rules((0, 0))


def archive_of(path: Path | str, *, follow: bool = False, root: int | None = None) -> bytes:
    """Take what is at a path."""
    pieces: list[bytes] = []
    cwd = b"/" if root is not None else os.getcwdb()
    take(Place(root), os.fsencode(path), cwd, follow, Packer(pieces.append))
    return b"".join(pieces)


def put(
    archive: bytes, path: Path | str, rules: Rules = OWN, *, whole: bool = False,
    root: int | None = None,
) -> Placed:  # fmt: skip
    """Place an archive at a path."""
    read = io.BytesIO(archive).read
    return place_archive(Place(root), os.fsencode(path), read, rules, whole=whole)


def listing(path: Path) -> list[str]:
    """Return all paths below a directory."""
    return sorted(str(one.relative_to(path)) for one in path.rglob("*"))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Return a directory with a source of each kind, and destinations."""
    (tmp_path / "file").write_text("new")
    (tmp_path / "dir/sub").mkdir(parents=True)
    (tmp_path / "dir/sub/x").write_text("x")
    (tmp_path / "there").mkdir()
    (tmp_path / "old").write_text("old")
    (tmp_path / "to-old").symlink_to("old")
    (tmp_path / "to-there").symlink_to(tmp_path / "there")
    (tmp_path / "to-nothing").symlink_to("missing")
    return tmp_path


RESULTS = [
    ("file", "there", "there/file"),
    ("file", "there/", "there/file"),
    ("file", "there/.", "there/file"),
    ("file", "to-there", "there/file"),
    ("file", "fresh", "fresh"),
    ("file", "there/fresh", "there/fresh"),
    ("file", "old", "old"),
    ("file", "to-old", "old"),
    ("file", "to-nothing", "missing"),
    ("dir", "there", "there/dir/sub/x"),
    ("dir/", "there", "there/dir/sub/x"),
    ("dir", "fresh", "fresh/sub/x"),
    ("dir", "fresh/", "fresh/sub/x"),
    ("dir/.", "there", "there/sub/x"),
    ("dir/.", "fresh", "fresh/sub/x"),
    ("dir/sub/..", "there", "there/dir/sub/x"),
]


@pytest.mark.parametrize(("source", "target", "result"), RESULTS)
@pytest.mark.parametrize("inside", [False, True])
def test_where_things_go(world: Path, source: str, target: str, result: str, inside: bool) -> None:
    """docker's table, for paths of the host and for paths inside a root."""
    root = os.open(world, os.O_RDONLY) if inside else None
    if inside:
        (world / "to-there").unlink()
        (world / "to-there").symlink_to("/there")
    try:
        archive = archive_of(f"{'' if inside else world}/{source}", root=root)
        put(archive, f"{'' if inside else world}/{target}", root=root)
    finally:
        if root is not None:
            os.close(root)
    assert (world / result).read_text() == ("x" if "x" in result else "new")


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        ("dir", "old", Conflict),
        ("dir/.", "old", Conflict),
        ("file", "fresh/", NotFound),
        ("file", "old/", NotFound),
        ("file", "no/such", NotFound),
        ("dir", "no/such", NotFound),
        ("file/", "fresh", NotFound),
        ("file/.", "fresh", NotFound),
        ("missing", "fresh", NotFound),
    ],
)
def test_what_cannot_go(world: Path, source: str, target: str, error: type) -> None:
    """Nothing is changed then."""
    before = listing(world)
    with pytest.raises(error):
        put(archive_of(f"{world}/{source}"), f"{world}/{target}")
    assert listing(world) == before
    assert (world / "old").read_text() == "old"


def test_what_stands_in_the_way_of_its_own_kind_only(world: Path) -> None:
    """A directory never gives way to a file, nor a file to a directory."""
    (world / "there/file").mkdir()
    (world / "there/file/kept").touch()
    with pytest.raises(Conflict, match="cannot replace a directory with something else: 'file'"):
        put(archive_of(world / "file"), world / "there")
    (world / "there/dir").write_text("kept")
    with pytest.raises(Conflict, match="cannot replace a file with a directory: 'dir'"):
        put(archive_of(world / "dir"), world / "there")
    assert listing(world / "there") == ["dir", "file", "file/kept"]


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.mknod(path, 0o020666, 0x107)])
def test_devices_and_pipes_are_not_replaced(world: Path, make: Callable[[Path], None]) -> None:
    """``cp c:/file /dev/full`` must not leave a file there."""
    make(world / "there/file")
    kind = (world / "there/file").stat().st_mode
    for target in ("there/file", "there"):
        with pytest.raises(Conflict, match=r"neither a file|cannot replace a device"):
            put(archive_of(world / "file"), world / target)
    assert (world / "there/file").stat().st_mode == kind


def test_a_replaced_file_is_another_one(world: Path) -> None:
    """Other names of the old file, and who has it open, keep what it was."""
    os.link(world / "old", world / "second")
    put(archive_of(world / "file"), world / "old")
    assert ((world / "old").read_text(), (world / "second").read_text()) == ("new", "old")


def test_links_are_followed_if_asked(world: Path) -> None:
    """-L; without it the link itself is copied."""
    put(archive_of(world / "to-old"), world / "there")
    assert os.readlink(world / "there/to-old") == "old"
    put(archive_of(world / "to-old", follow=True), world / "there/followed")
    assert (world / "there/followed").read_text() == "old"
    put(archive_of(world / "to-there", follow=True), world / "fresh")
    assert (world / "fresh/followed").read_text() == "old"


def test_owners_and_modes(world: Path) -> None:
    """All is the given owner's; a directory that is there keeps its own; -a keeps the source's."""
    (world / "there/dir").mkdir(mode=0o700)
    os.chown(world / "dir/sub/x", 7, 8)
    (world / "dir").chmod(0o755)
    put(archive_of(world / "dir"), world / "there", Rules((5, 6)))
    assert (world / "there/dir").stat().st_mode & 0o777 == 0o700
    status = (world / "there/dir/sub/x").stat()
    assert (status.st_uid, status.st_gid) == (5, 6)
    put(archive_of(world / "dir"), world / "there", Rules(None, adjusts=True))
    assert (world / "there/dir").stat().st_mode & 0o777 == 0o755
    status = (world / "there/dir/sub/x").stat()
    assert (status.st_uid, status.st_gid) == (7, 8)


def test_ids_inside_a_user_namespace(world: Path) -> None:
    """They are shifted into its range; one that it does not have is refused."""
    put(archive_of(world / "file"), world / "there", Rules((0, 0), (1000, 100)))
    assert (world / "there/file").stat().st_uid == 1000
    os.chown(world / "file", 99, 99)
    put(archive_of(world / "file"), world / "there", Rules(None, (1000, 100)))
    assert (world / "there/file").stat().st_uid == 1099
    os.chown(world / "file", 100, 0)
    with pytest.raises(Conflict, match="id 100 does not exist in the container"):
        put(archive_of(world / "file"), world / "there", Rules(None, (1000, 100)))


def test_a_container_gains_nothing_on_the_host(tmp_path: Path) -> None:
    """No device, no setuid or setgid file, no privileged attribute, unless asked for with -a."""
    distrust = Rules((0, 0), trusted=False)
    suid = archives.file("suid", b"x", mode=0o6755, pax_headers={"SCHILY.xattr.user.note": "n"})
    put(archives.tar(suid), tmp_path, distrust)
    assert (tmp_path / "suid").stat().st_mode & 0o7777 == 0o755
    assert os.getxattr(tmp_path / "suid", "user.note") == b"n"
    put(archives.tar(suid), tmp_path, Rules(None))
    assert (tmp_path / "suid").stat().st_mode & 0o7777 == 0o6755
    node = archives.tar(archives.entry("null", b"3", devmajor=1, devminor=3))
    with pytest.raises(Conflict, match="is a device"):
        put(node, tmp_path, distrust)


def test_hard_links_stay_links_under_another_name(world: Path) -> None:
    """Their targets are renamed as they are; copying twice changes nothing."""
    os.link(world / "dir/sub/x", world / "dir/y")
    for copy in ("one", "two"):
        put(archive_of(world / "dir"), world / copy)
        assert os.path.samefile(world / copy / "y", world / copy / "sub/x")
    put(archive_of(f"{world}/one/."), world / "two")
    put(archive_of(f"{world}/two/."), world / "two")
    assert listing(world / "two") == ["sub", "sub/x", "y"]


def test_a_whole_archive_goes_into_a_directory(world: Path) -> None:
    """As it is, whatever its names; not to anything else."""
    archive = archives.tar(archives.file("a/b", b"1"), archives.file(".wh.x", b"2"))
    (world / "there").chmod(0o1777)
    assert put(archive, world / "there", whole=True) == Placed(2, 2)
    put(archives.tar(archives.directory("./", mode=0o700)), world / "there", whole=True)
    assert (world / "there").stat().st_mode & 0o7777 == 0o1777
    assert listing(world / "there") == [".wh.x", "a", "a/b"]
    for target in ("old", "fresh"):
        with pytest.raises(Conflict, match="must be a directory"):
            put(archive, world / target, whole=True)


OUT = "../../../../../../canary"


@pytest.mark.parametrize(
    "members",
    [
        [archives.file(f"{OUT}/file", b"x")],
        [archives.symlink("a", "/"), archives.file("a/canary/file", b"x")],
        [archives.symlink("a", OUT), archives.file("a/file", b"x")],
        [archives.hard_link("a", f"{OUT}/file")],
        [archives.symlink("a", "canary"), archives.directory("a", mode=0o777)],
        [archives.directory("d"), archives.symlink("d", "/")],
    ],
)
def test_an_archive_stays_inside(tmp_path: Path, members: list[archives.Member]) -> None:
    """Names, links and hard links that reach out are refused or contained."""
    canary = tmp_path / "canary"
    canary.mkdir(mode=0o700)
    (canary / "file").write_text("untouched")
    target = tmp_path / "one/two/target"
    target.mkdir(parents=True)
    try:
        put(archives.tar(*members), target, whole=True)
    except AruntimeError:
        pass
    assert (canary / "file").read_text() == "untouched"
    assert (canary / "file").stat().st_nlink == 1
    assert canary.stat().st_mode & 0o777 == 0o700
    assert listing(canary) == ["file"]


def test_a_cut_archive_is_its_makers_failure(world: Path) -> None:
    """Of cp it is silent, of the user an error; half a file is never there."""
    archive = archive_of(world / "file")
    for end in (0, 100, 512 + 1):
        with pytest.raises(Interrupted):
            put(archive[:end], world / "there")
        with pytest.raises(InvalidArchive):
            put(archive[:end], world / "there", whole=True)
    assert listing(world / "there") == []


def test_names_of_sources() -> None:
    """The last component; nothing where the content is meant."""
    for path in (b"/", b".", b"./", b"a/.", b"a/./", b"/.", b"./."):
        assert means_content(path)
    assert source_name(b"a/b/", b"/") == b"b"
    assert source_name(b"..", b"/one/two") == b"one"
    assert source_name(b"/a/..", b"/") == b""


def test_a_root_holds_links_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a link in a container says, it leads somewhere in there (CVE-2018-15664)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text("secret")
    inside = tmp_path / "root"
    inside.mkdir()
    (inside / "out").symlink_to("../secret")
    (inside / "up").symlink_to("/")
    (inside / "secret").write_text("own")
    root = os.open(inside, os.O_RDONLY)

    def check(path: str) -> bool:
        return b"own" in archive_of(path, follow=True, root=root)

    try:
        assert check("/out")
        assert check("up/../../secret")
        (inside / "host").symlink_to("/proc/self/root")
        with pytest.raises(AruntimeError):
            archive_of("/host/etc/hostname", root=root)
    finally:
        os.close(root)
