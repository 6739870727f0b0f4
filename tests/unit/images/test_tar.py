"""The tar reader: all formats, as tarfile reads them; broken headers, never taken for the end."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aruntime.errors import InvalidArchive
from aruntime.images import sparse, tar
from tests import archives
from tests.conftest import require_program

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def read_all(content: bytes, *, strict_end: bool = True) -> list[tuple[tar.Entry, bytes]]:
    """Return every entry with its content."""
    reader = tar.Reader(io.BytesIO(content).read, strict_end=strict_end)
    return [(entry, b"".join(reader.content())) for entry in reader]


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=150
).filter(lambda name: name not in (".", ".."))
KINDS = st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE,
                         tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])  # fmt: skip


@st.composite
def members(draw: st.DrawFn) -> archives.Member:
    """Draw a member of any kind, with numbers that no octal field holds."""
    kind = draw(KINDS)
    content = draw(st.binary(max_size=1500)) if kind == tarfile.REGTYPE else b""
    link = draw(NAMES) if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return archives.entry(
        "/".join(draw(st.lists(NAMES, min_size=1, max_size=3))),
        kind,
        content,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, (1 << 32) - 2)),
        gid=draw(st.integers(0, (1 << 32) - 2)),
        mtime=draw(st.integers(-(10**9), 4 * 10**9)),
        linkname=link,
        devmajor=draw(st.integers(0, 4095)) if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE) else 0,
        devminor=draw(st.integers(0, 1048575)) if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE) else 0,
    )


@given(st.lists(members(), max_size=4), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_reads_what_tarfile_writes(drawn: list[archives.Member], form: int) -> None:
    """Every field of every kind of entry comes back, whatever the format did to fit it in."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8") as archive:
        for member, content in drawn:
            archive.addfile(member, io.BytesIO(content))

    found = read_all(buffer.getvalue())

    assert len(found) == len(drawn)
    for (entry, content), (member, expected) in zip(found, drawn, strict=True):
        assert entry.name.rstrip(b"/") == member.name.encode().rstrip(b"/")
        assert (entry.mode, entry.uid, entry.gid) == (member.mode, member.uid, member.gid)
        assert entry.mtime_ns == member.mtime * 1_000_000_000
        assert entry.linkname == member.linkname.encode()
        assert (entry.major, entry.minor) == (member.devmajor, member.devminor)
        assert content == expected


@pytest.mark.parametrize("form", FORMATS)
def test_a_long_path_is_put_together(form: int) -> None:
    """ustar's prefix, GNU's long name and pax's path are one thing."""
    name = "/".join(["directory" * 5] * 4) + "/file"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        archive.addfile(tarfile.TarInfo(name))

    ((entry, _),) = read_all(buffer.getvalue())

    assert entry.name == name.encode()


def test_pax_times_and_attributes() -> None:
    """Times are exact to the nanosecond; extended attributes are bytes."""
    content = archives.tar(
        archives.file(
            "a",
            pax_headers={"mtime": "1700000000.123456789", "SCHILY.xattr.user.k": "v\nw", "x": "y"},
        )
    )

    ((entry, _),) = read_all(content)

    assert entry.mtime_ns == 1_700_000_000_123_456_789
    assert entry.xattrs == {b"user.k": b"v\nw"}


def test_global_pax_headers_hold_until_changed() -> None:
    """A global header gives defaults; an entry's own record wins."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "7", "gid": "8"}
    ) as archive:
        for name, own in (("a", {}), ("b", {"uid": "9"})):
            member = tarfile.TarInfo(name)
            member.pax_headers = own
            archive.addfile(member)

    found = [(entry.name, entry.uid, entry.gid) for entry, _ in read_all(buffer.getvalue())]

    assert found == [(b"a", 7, 8), (b"b", 9, 8)]


def header(content: bytes, at: int, replacement: bytes) -> bytes:
    """Change bytes of the first header and put its sum right."""
    block = bytearray(content[:512])
    block[at : at + len(replacement)] = replacement
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + content[512:]


@pytest.mark.parametrize(
    ("at", "replacement", "message"),
    [
        (124, b"\x80" + bytes(3) + b"\x80" + bytes(7), None),  # 2^63 bytes
        (124, b"\xff" * 12, "negative"),
        (124, b"0000000001z\0", "not a number"),
        (124, b"0000000_1__\0", "not a number"),
        (108, b"\xff" * 8, "negative"),
        (108, b"\x80\0\0\0\xff\xff\xff\xff", "no user or group id"),
        (108, b"\x80\xff\xff\xff\xff\xff\xff\xff", "no user or group id"),
        (156, b"Z", "unknown type 'Z'"),
        (156, b"M", "unknown type 'M'"),
        (100, b"rwxr-xr-", "not a number"),
    ],
)
def test_malformed_numbers_are_refused(at: int, replacement: bytes, message: str | None) -> None:
    """A number that is none, or too large, is an error that names the entry."""
    content = header(archives.tar(archives.file("name", b"xyz")), at, replacement)

    with pytest.raises(InvalidArchive, match=message or "'name'"):
        read_all(content)


def test_a_truncated_archive_is_refused_wherever_it_is_cut() -> None:
    """No prefix of an archive is an archive, up to its end marker."""
    whole = archives.tar(
        archives.file("a", b"x" * 700),
        archives.file("b" * 150, pax_headers={"mtime": "1.5"}),
    )
    end = whole.rindex(b"b" * 100) // 512 * 512 + 512

    for length in [*range(0, end, 256), end]:
        with pytest.raises(InvalidArchive):
            read_all(whole[:length])
    assert len(read_all(whole[: end + 512])) == 2


def test_without_a_strict_end_only_the_marker_may_miss() -> None:
    """Where a digest vouches for the whole, an archive may end at a header; not elsewhere."""
    whole = archives.tar(archives.file("a", b"x"))

    assert len(read_all(whole[:1024], strict_end=False)) == 1
    for length in (1, 511, 513, 1000):
        with pytest.raises(InvalidArchive):
            read_all(whole[:length], strict_end=False)


def test_a_damaged_header_is_not_the_end() -> None:
    """tarfile would stop there and say nothing."""
    whole = bytearray(archives.tar(archives.file("a", b"x"), archives.file("b", b"y")))
    whole[1024 + 5] ^= 1

    with pytest.raises(InvalidArchive, match="damaged header after 'a'"):
        read_all(bytes(whole))


def test_data_behind_one_zero_block_is_refused() -> None:
    """Two readers must not see two archives in one."""
    first, second = archives.tar(archives.file("a")), archives.tar(archives.file("b"))

    with pytest.raises(InvalidArchive, match="damaged header"):
        read_all(first[:512] + bytes(512) + second)


@pytest.mark.parametrize(
    "records",
    [
        b"x", b"5 a=\n6 b", b"99 a=b\n", b"0 a=b\n", b"-6 a=b\n", b"6 a=b ", b"5 ab\n", b"6 =bc\n",
        b"08 uid=x\n", b"9999999999999999999999999 a=b\n",
    ],
)  # fmt: skip
def test_malformed_pax_records_are_refused(records: bytes) -> None:
    """A pax header that lies about its lengths is an error."""
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT)[:512])
    block[156] = ord("x")
    block[124:136] = b"%011o\0" % len(records)
    content = header(bytes(block), 156, b"x") + records.ljust(512, b"\0")

    with pytest.raises(InvalidArchive):
        read_all(content + archives.tar(archives.file("a")))


def test_names_with_nul_are_refused_and_others_are_bytes() -> None:
    """pax can carry a NUL in a name; a newline or any other byte is only a name."""
    with pytest.raises(InvalidArchive, match="NUL"):
        read_all(archives.tar(archives.file("a", pax_headers={"path": "a\0b"})))

    ((entry, _),) = read_all(archives.tar(archives.file("a\nb\udcff")))

    assert entry.name == b"a\nb\xff"


def test_an_endless_extended_header_is_refused() -> None:
    """What an archive can make the reader hold in memory is bounded."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    content = member.tobuf(tarfile.GNU_FORMAT)

    with pytest.raises(InvalidArchive, match="too long"):
        read_all(content)


@settings(max_examples=300)
@given(st.data())
def test_fuzzed_archives_are_read_or_refused(data: st.DataObject) -> None:
    """Whatever bytes are changed, nothing but InvalidArchive comes out."""
    whole = bytearray(
        archives.tar(
            archives.file("a" * 120, b"x" * 600, pax_headers={"mtime": "1.5", "uid": "70000000"}),
            archives.symlink("l", "t" * 120),
            archives.entry("d", tarfile.CHRTYPE, devmajor=1, devminor=3),
        )
    )
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):  # past the sum, into the fields
        for start in range(0, len(whole) - 511, 512):
            block = whole[start : start + 512]
            if block[257:262] == b"ustar":
                block[148:156] = b" " * 8
                whole[start + 148 : start + 156] = b"%06o\0 " % sum(block)

    try:
        read_all(bytes(whole))
    except InvalidArchive:
        pass


@given(st.binary(max_size=3000))
def test_any_bytes_are_an_archive_or_an_error(content: bytes) -> None:
    """Fuzz from nothing."""
    try:
        read_all(content)
    except InvalidArchive:
        pass


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
    ids=["gnu", "0.0", "0.1", "1.0"],
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, options: list[str]) -> None:
    """All four sparse formats of the real GNU tar, with more extents than a header holds."""
    program = require_program("tar")
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for number in range(30):
            file.seek(number * 65536)
            file.write(b"%04d" % number * 1024)
        file.truncate(40 * 65536)
    made = subprocess.run(
        [program, "-S", *options, "-C", str(tmp_path), "-cf", "-", "sparse"],
        capture_output=True,
        check=True,
    )

    ((entry, content),) = read_all(made.stdout)

    assert entry.name == b"sparse"
    assert entry.real_size == 40 * 65536
    assert entry.extents is not None
    rebuilt = bytearray(entry.real_size)
    at = 0
    for offset, length in entry.extents:
        rebuilt[offset : offset + length] = content[at : at + length]
        at += length
    assert bytes(rebuilt) == path.read_bytes()
    assert len(content) < 40 * 65536


@pytest.mark.parametrize(
    "extents",
    [[(10, 5), (0, 5)], [(0, 5), (4, 6)], [(0, 200)], [(0, 5)], [(0, 11)], [(95, 10)]],
)
def test_sparse_maps_that_lie_are_refused(extents: list[tuple[int, int]]) -> None:
    """Extents that overlap, descend, leave the file or do not add up to the content."""
    with pytest.raises(ValueError):
        sparse.check(sparse.Map(extents, 100), 10)


@given(st.dictionaries(st.sampled_from(
    ["GNU.sparse.major", "GNU.sparse.minor", "GNU.sparse.map", "GNU.sparse.size",
     "GNU.sparse.realsize", "GNU.sparse.name"]), st.sampled_from(
    ["0", "1", "2", "0,5", "0,5,9", "-1", "x", "", "99999999999999999999999"])),
    st.binary(max_size=1100))  # fmt: skip
def test_fuzzed_sparse_headers(records: dict[str, str], content: bytes) -> None:
    """Sparse headers that make no sense are errors, never endless loops."""
    try:
        read_all(archives.tar(archives.file("a", content, pax_headers=records)))
    except InvalidArchive:
        pass
