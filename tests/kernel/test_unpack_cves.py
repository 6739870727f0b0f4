"""Archives as they were made for known holes in other programs: each stays inside or is refused.

Both ways of unpacking are tried: a layer (:mod:`aruntime.images.layers`), and what ``cp`` puts into
a directory where things are already (:mod:`aruntime.images.placing`).
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aruntime.errors import AruntimeError
from aruntime.images import layers, removal, tar
from aruntime.images.compression import Limits
from aruntime.images.endpoints import Place
from aruntime.images.packing import Options, Packer
from aruntime.images.placing import Rules, place_archive
from tests import archives
from tests.archives import directory, entry, file, hard_link, symlink
from tests.kernel.test_unpack import MEMBERS

pytestmark = pytest.mark.kernel

UP = "../" * 8
Unpack = Callable[[bytes, Path], None]


def as_layer(content: bytes, target: Path) -> None:
    """Unpack as a layer."""
    layers.unpack(io.BytesIO(content).read, str(target), [], Limits(), strict_end=True)


def as_copy(content: bytes, target: Path) -> None:
    """Unpack as ``cp - CONTAINER:DIR`` does."""
    read = io.BytesIO(content).read
    place_archive(Place(), os.fsencode(target), read, Rules(None), whole=True)


def long_chain(secret: str) -> list[archives.Member]:
    """Links and directories whose names add up to more than a path may have, then out of them.

    The published proof for Python's tarfile: what resolves paths as text gives up on the way.
    """
    name = "d" * 247
    members: list[archives.Member] = []
    path = ""
    for step in "abcdefghijklmnop":
        members += [directory(f"{path}{name}"), symlink(f"{path}{step}", name)]
        path += f"{step}/"
    members.append(symlink(f"{path}{'l' * 254}", "../" * 16))
    members.append(symlink("escape", f"{path}{'l' * 254}/{UP}{secret}"))
    members.append(hard_link("flaglink", "escape/file"))
    members.append(file("flaglink", b"overwritten"))
    members.append(file("escape/planted", b"x"))
    return members


def attacks(canary: Path) -> dict[str, list[archives.Member]]:
    """Return the archives by the number of what they were made for."""
    out = f"{UP}{canary}".replace("//", "/")
    return {
        "CVE-2001-1267 tar": [file(f"{out}/file", b"x")],
        "CVE-2007-4559 tarfile": [file(f"{out}/planted", b"x"), symlink(f"{out}/l", "x")],
        "CVE-2014-6407 docker": [
            symlink("link", f"{canary}"), hard_link("again", "link/file"), file("again", b"x"),
        ],
        "CVE-2014-9356 docker": [symlink("abs", f"{canary}/file"), file("abs", b"x")],
        "CVE-2018-1002200 plexus-archiver": [file(f"good/{UP}{out}/planted", b"x")],
        "CVE-2018-20834 npm": [
            hard_link("x", f"{canary}/file"), file("x", b"overwritten by a file of that name"),
        ],
        "CVE-2021-29136 umoci": [symlink(".", str(canary)), file("planted", b"x")],
        "CVE-2021-32760 containerd": [
            symlink("f", f"{canary}/file"), hard_link("g", "f", mode=0o777),
            entry("f", tarfile.REGTYPE, b"", mode=0o777),
        ],
        "CVE-2021-32803 npm": [
            directory("d"), file("d/first", b"1"), symlink("d", str(canary)), file("d/file", b"x"),
        ],
        "CVE-2021-37712 npm": [
            directory("caf\u00e9"), symlink("cafe\u0301", str(canary)),
            file("caf\u00e9/file", b"x"),
        ],
        "CVE-2024-0406 archiver": [symlink("s", out), directory("s", mode=0o777), file("s/p", b"")],
        "CVE-2025-4138 tarfile": [
            directory("x"), symlink("x/up", ".."), symlink("out", f"x/up/{UP}{canary}"),
            file("out/file", b"x"),
        ],
        "CVE-2025-4517 tarfile": long_chain(str(canary)),
    }  # fmt: skip


@pytest.mark.parametrize("number", attacks(Path("/x")))
@pytest.mark.parametrize("unpack", [as_layer, as_copy])
def test_published_archives(tmp_path: Path, number: str, unpack: Unpack) -> None:
    """The file they are after is not read, written, linked or changed, and nothing joins it."""
    canary = tmp_path / "canary"
    canary.mkdir(mode=0o700)
    (canary / "file").write_text("untouched")
    (canary / "file").chmod(0o600)
    target = tmp_path / "a/b/c/target"
    target.mkdir(parents=True)
    before = os.umask(0)
    try:
        unpack(archives.tar(*attacks(canary)[number]), target)
    except AruntimeError as error:
        assert "\n" not in error.message
    finally:
        os.umask(before)
    status = (canary / "file").stat()
    assert os.listdir(canary) == ["file"]
    assert (canary / "file").read_text() == "untouched"
    assert (status.st_mode & 0o7777, status.st_nlink, status.st_uid) == (0o600, 1, 0)
    assert canary.stat().st_mode & 0o7777 == 0o700
    assert os.listdir(tmp_path / "a/b/c") == ["target"]


def test_a_link_that_an_earlier_archive_left(tmp_path: Path) -> None:
    """CVE-2025-45582: one archive plants a link, the next writes through it."""
    (tmp_path / "canary").mkdir()
    target = tmp_path / "target"
    target.mkdir()
    as_copy(archives.tar(symlink("x", "../canary")), target)
    with pytest.raises(AruntimeError):
        as_copy(archives.tar(file("x/planted", b"x")), target)
    assert os.listdir(tmp_path / "canary") == []


def test_a_size_that_two_readers_read_differently() -> None:
    """CVE-2025-62518: a pax header's size counts, so an archive within a file stays content."""
    inner = archives.tar(file("smuggled", b"x"))
    member, _ = file("outer")
    member.size, member.pax_headers = 0, {"size": str(len(inner))}
    padded = inner + bytes(-len(inner) % 512)
    content = member.tobuf(tarfile.PAX_FORMAT) + padded + bytes(1024)

    reader = tar.Reader(io.BytesIO(content).read, strict_end=True)
    assert [(one.name, len(b"".join(reader.content()))) for one in reader] == [
        (b"outer", len(inner))
    ]


FILES = 100_000 if os.environ.get("ARUNTIME_TEST_LARGE") else 10_000
"""A hundred thousand take half a minute on a busy host: ARUNTIME_TEST_LARGE=1."""


def test_very_many_files(tmp_path: Path) -> None:
    """In a thousand directories, with links among them: all are there, and none twice."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as made:
        for number in range(FILES):
            member = tarfile.TarInfo(f"d{number % 1000}/f{number}")
            if number >= 1000 and number % 10 == 0:
                member.type, member.linkname = tarfile.LNKTYPE, f"d{number % 1000}/f{number % 1000}"
            made.addfile(member)
    target = tmp_path / "target"
    target.mkdir()
    record = layers.unpack(
        io.BytesIO(buffer.getvalue()).read, str(target), [], Limits(), strict_end=True
    )
    assert record.entries == FILES
    assert sum(len(os.listdir(target / name)) for name in os.listdir(target)) == FILES
    assert (target / "d10/f10").stat().st_nlink == FILES // 1000
    parent = os.open(tmp_path, os.O_RDONLY)
    removal.remove_tree(parent, b"target")
    os.close(parent)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=st.lists(MEMBERS, max_size=5), second=st.lists(MEMBERS, max_size=5))
def test_no_archive_that_is_copied_gets_out(
    tmp_path_factory: pytest.TempPathFactory,
    first: list[archives.Member],
    second: list[archives.Member],
) -> None:
    """Fuzz: one archive after another into the same directory, whatever the first one left."""
    base = tmp_path_factory.mktemp("copy")
    (base / "canary").write_bytes(b"untouched")
    target = base / "outer/target"
    target.mkdir(parents=True)
    try:
        for members in (first, second):
            try:
                as_copy(archives.tar(*members), target)
            except AruntimeError:
                pass
        assert sorted(os.listdir(base)) == ["canary", "outer"]
        assert os.listdir(base / "outer") == ["target"]
        assert (base / "canary").read_bytes() == b"untouched"
        assert (base / "canary").stat().st_nlink == 1
        assert not any(name.startswith(".aruntime-cp-") for _, _, names in os.walk(target)
                       for name in names)  # fmt: skip
    finally:
        parent = os.open(base.parent, os.O_RDONLY)
        removal.remove_tree(parent, os.fsencode(base.name))
        os.close(parent)


def described(path: Path) -> list[tuple[object, ...]]:
    """Describe every file below a directory."""
    found: list[tuple[object, ...]] = []
    for one in sorted(path.rglob("*")):
        status = one.lstat()
        content = one.read_bytes() if one.is_file() and not one.is_symlink() else b""
        target = os.readlink(one) if one.is_symlink() else ""
        found.append((str(one.relative_to(path)), status.st_mode, status.st_nlink, content, target))
    return found


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(members=st.lists(MEMBERS, max_size=8))
def test_what_was_unpacked_is_packed_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, members: list[archives.Member]
) -> None:
    """Fuzz: a tree, whiteouts and all, comes out of its archive as the same tree."""
    base = tmp_path_factory.mktemp("round")
    before = os.umask(0)
    try:
        one, two = base / "one", base / "two"
        one.mkdir()
        two.mkdir()
        try:
            as_layer(archives.tar(*members), one)
        except AruntimeError:
            return
        pieces: list[bytes] = []
        fd = os.open(one, os.O_RDONLY)
        packer = Packer(pieces.append, Options(whiteouts=True))
        packer.tree(fd, b"")
        packer.finish()
        os.close(fd)
        as_layer(b"".join(pieces), two)
        assert described(two) == described(one)
    finally:
        os.umask(before)
        parent = os.open(base.parent, os.O_RDONLY)
        removal.remove_tree(parent, os.fsencode(base.name))
        os.close(parent)
