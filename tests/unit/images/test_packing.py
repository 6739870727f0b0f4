"""Trees as archives: what is written, and that other programs and our own reader agree on it."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.errors import Conflict
from aruntime.images import tar, tar_headers
from aruntime.images.packing import Options, Packer, Writer, data_extents
from aruntime.images.tar import Entry
from tests.conftest import require_program


def packed(path: Path, name: bytes = b"", options: Options | None = None) -> bytes:
    """Pack a directory."""
    pieces: list[bytes] = []
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        packer = Packer(pieces.append, options)
        packer.tree(fd, name)
        packer.finish()
    finally:
        os.close(fd)
    return b"".join(pieces)


def entries(archive: bytes) -> list[tuple[Entry, bytes]]:
    """Read an archive with our own reader."""
    reader = tar.Reader(io.BytesIO(archive).read, strict_end=True)
    return [(entry, b"".join(reader.content())) for entry in reader]


def names(archive: bytes) -> list[bytes]:
    """Return the names in an archive."""
    return [entry.name for entry, _ in entries(archive)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with one of everything."""
    root = tmp_path / "tree"
    (root / "dir/deep").mkdir(parents=True)
    (root / "dir/deep/file").write_bytes(b"content")
    (root / "file").write_bytes(b"x" * 1000)
    (root / "file").chmod(0o4750)
    os.utime(root / "file", ns=(5, 1_700_000_000_999_999_999))
    os.setxattr(root / "file", "user.note", b"\0\xff\n=")
    os.link(root / "file", root / "linked")
    (root / "link").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe", 0o600)
    (root / ("long" * 40)).write_bytes(b"l")
    (root / "n\udcff\n").write_bytes(b"bytes")
    return root


def test_everything_comes_back(tree: Path) -> None:
    """Names as bytes, modes, whole seconds, attributes, hard links, links as they are."""
    found = {entry.name: (entry, content) for entry, content in entries(packed(tree))}

    assert list(found)[:2] == [b"./", b"dir/"]
    entry, content = found[b"file"]
    assert (entry.mode, entry.mtime_ns, content) == (0o4750, 1_700_000_000 * 10**9, b"x" * 1000)
    assert entry.xattrs == {b"user.note": b"\0\xff\n="}
    assert (found[b"linked"][0].type, found[b"linked"][0].linkname) == (tar.HARD_LINK, b"file")
    assert found[b"link"][0].linkname == b"/etc/passwd"
    assert found[b"pipe"][0].type == tar.FIFO
    assert found[b"long" * 40][1] == b"l"
    assert found[b"n\xff\n"][1] == b"bytes"
    assert found[b"dir/deep/file"][1] == b"content"


def test_a_name_leads_everything(tree: Path) -> None:
    """As cp wants it."""
    assert names(packed(tree / "dir", b"top")) == [b"top/", b"top/deep/", b"top/deep/file"]


def test_gnu_tar_reads_it(tree: Path, tmp_path: Path) -> None:
    """Attributes and sparse files included."""
    with (tree / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(8 << 20)
    archive = tmp_path / "a.tar"
    archive.write_bytes(packed(tree))
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([require_program("tar"), "--xattrs", "-C", out, "-xpf", archive], check=True)
    assert archive.stat().st_size < 1 << 20
    assert (out / "sparse").read_bytes() == (tree / "sparse").read_bytes()
    assert os.getxattr(out / "file", "user.note") == b"\0\xff\n="
    compared = subprocess.run(["diff", "-r", "--no-dereference", "-x", "pipe", tree, out])
    assert compared.returncode == 0
    with tarfile.open(archive) as other:
        assert other.getmember("sparse").size == 8 << 20


@pytest.mark.parametrize(
    ("pieces", "size"),
    [([], 2 << 20), ([(0, 5)], 2 << 20), ([((2 << 20) - 3, 3)], 2 << 20), ([(4096, 1)], 9 << 20)],
)
def test_sparse_files_stay_sparse(tmp_path: Path, pieces: list[tuple[int, int]], size: int) -> None:
    """Our reader puts every piece where it was."""
    path = tmp_path / "tree/file"
    path.parent.mkdir()
    with path.open("wb") as file:
        for offset, length in pieces:
            file.seek(offset)
            file.write(b"d" * length)
        file.truncate(size)
    archive = packed(path.parent)
    ((_, _), (entry, content)) = entries(archive)

    assert len(archive) < 64 << 10
    assert (entry.name, entry.real_size) == (b"file", size)
    rebuilt = bytearray(size)
    for offset, length in entry.extents or []:
        rebuilt[offset : offset + length], content = content[:length], content[length:]
    assert bytes(rebuilt) == path.read_bytes()


def test_small_files_and_full_ones_have_no_map(tmp_path: Path) -> None:
    """It would take more than it saves."""
    for content, size in ((b"x", 4096), (b"x" * (2 << 20), 2 << 20)):
        path = tmp_path / "file"
        path.write_bytes(content)
        os.truncate(path, size)
        fd = os.open(path, os.O_RDONLY)
        assert data_extents(fd, os.fstat(fd)) is None
        os.close(fd)


def test_sockets_and_the_kernels_files_are_left_out(tmp_path: Path) -> None:
    """Nobody can use a copy of them."""
    (tmp_path / "tree").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "tree/socket"))
        assert names(packed(tmp_path / "tree")) == [b"./"]
    pieces: list[bytes] = []
    root = os.open("/", os.O_RDONLY)
    try:
        # /proc is there as an empty directory; what else is there is not this test's.
        found = Packer(pieces.append)._until_directory(root, b"", iter([b"proc"]))
    finally:
        os.close(root)
    assert found is None
    assert b"".join(pieces).startswith(b"proc/\0")


@pytest.mark.skipif(os.geteuid() != 0, reason="whiteouts are devices: needs root")
def test_a_writable_layer_becomes_an_images_layer(tmp_path: Path) -> None:
    """Whiteouts and opaque directories in the image's form; empty mount points left out."""
    upper = tmp_path / "upper"
    for name in ("etc", "home", "proc", "sys"):
        (upper / name).mkdir(parents=True)
    os.mknod(upper / "etc/gone", 0o020000)
    os.setxattr(upper / "home", "trusted.overlay.opaque", b"y")
    (upper / "sys/file").write_bytes(b"x")
    (upper / "etc/hosts").write_bytes(b"")

    skipped = frozenset({b"proc", b"sys", b"etc/hosts"})
    archive = packed(upper, options=Options(whiteouts=True, skipped=skipped))

    assert names(archive) == [
        b"./", b"etc/", b"etc/.wh.gone", b"home/", b"home/.wh..wh..opq", b"sys/", b"sys/file",
    ]  # fmt: skip
    assert all(not entry.xattrs for entry, _ in entries(archive))
    (upper / ".wh.mine").write_bytes(b"")
    with pytest.raises(Conflict, match="cannot be part of an image"):
        packed(upper, options=Options(whiteouts=True))
    assert b".wh.mine" in names(packed(upper))


@pytest.mark.skipif(os.geteuid() != 0, reason="other people's files: needs root")
def test_ids_of_a_user_namespace_come_out_from_zero(tmp_path: Path) -> None:
    """Those outside of its range, which lower layers have, stay."""
    (tmp_path / "tree").mkdir()
    for name, uid in (("a", 100_000), ("b", 165_535), ("c", 7), ("d", 165_536)):
        (tmp_path / "tree" / name).touch()
        os.chown(tmp_path / "tree" / name, uid, uid)
    found = entries(packed(tmp_path / "tree", options=Options(shift=(100_000, 65_536))))
    assert [entry.uid for entry, _ in found[1:]] == [0, 65_535, 7, 165_536]


def test_a_tree_of_a_thousand_levels(tmp_path: Path) -> None:
    """Deeper than a path may be long."""
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(900):
        os.mkdir("d" * 20, dir_fd=here)
        below = os.open("d" * 20, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert len(names(packed(tmp_path))) == 901


def test_the_writer_gathers_small_pieces() -> None:
    """And keeps their order."""
    reading, writing = os.pipe()
    writer = Writer(writing)
    for piece in (b"a", b"b", b"c"):
        writer.write(piece)
    assert not select_readable(reading)
    writer.flush()
    assert os.read(reading, 10) == b"abc"
    assert writer.size == 3
    os.close(reading)
    os.close(writing)


def select_readable(fd: int) -> bool:
    """Whether something can be read."""
    import select

    return bool(select.select([fd], [], [], 0)[0])


NAMES = st.binary(min_size=1, max_size=120).filter(
    lambda name: b"\0" not in name and b"/" not in name and name not in (b".", b"..")
)


@given(
    name=NAMES, linkname=NAMES, mode=st.integers(0, 0o7777), uid=st.integers(0, 2**32 - 2),
    gid=st.integers(0, 2**32 - 2), size=st.integers(0, 2**40), mtime=st.integers(-(2**31), 2**32),
    xattrs=st.dictionaries(
        st.text(st.characters(codec="ascii", exclude_characters="=\0"), min_size=1, max_size=9),
        st.binary(min_size=1, max_size=200), max_size=3,
    ),
)  # fmt: skip
def test_headers_come_back_as_they_were(
    name: bytes, linkname: bytes, mode: int, uid: int, gid: int, size: int, mtime: int,
    xattrs: dict[str, bytes],
) -> None:  # fmt: skip
    """Whatever the numbers and the bytes: long, binary, negative, large."""
    made = tar_headers.entry(
        name, tar.REGULAR, mode=mode, uid=uid, gid=gid, size=size, mtime_ns=mtime * 10**9,
        linkname=linkname, real_size=size,
        xattrs={f"user.{key}".encode(): value for key, value in xattrs.items()},
    )  # fmt: skip
    reader = tar.Reader(io.BytesIO(tar_headers.encode(made)).read, strict_end=False)
    assert next(iter(reader)) == made
