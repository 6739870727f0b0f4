"""Compressed inputs: every kind, several streams in one, cut ones, bombs."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable
from unittest import mock

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib

from aruntime.errors import InvalidArchive, Unavailable
from aruntime.images import compression
from aruntime.images.compression import RATIO_GRACE_BYTES, Input, Limits, Plain

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": lambda content: gzip.compress(content, 1),
    "zstd": zstandard.ZstdCompressor(level=1).compress,
    "bzip2": lambda content: bz2.compress(content, 1),
    "xz": lambda content: lzma.compress(content, preset=0),
}
KINDS = pytest.mark.parametrize("kind", [kind for kind in COMPRESSORS if kind != "none"])
CONTENT = bytes(range(256)) * 5000


def decompress(content: bytes, limits: Limits | None = None) -> tuple[bytes, Input, Plain]:
    """Read a compressed input to its end."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        source = Input(file.fileno())
        plain = Plain(source, limits or Limits())
        pieces = []
        while piece := plain.read():
            pieces.append(piece)
        return b"".join(pieces), source, plain


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_each_kind_is_told_by_its_content(kind: str) -> None:
    """The plain bytes come out; both digests are right."""
    compressed = COMPRESSORS[kind](CONTENT)

    found, source, plain = decompress(compressed)

    assert found == CONTENT
    assert plain.kind.name == kind
    assert (plain.size, source.size) == (len(CONTENT), len(compressed))
    assert plain.digest == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert source.digest == f"sha256:{hashlib.sha256(compressed).hexdigest()}"


def test_gzip_is_read_without_its_fast_library_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where isal is not to be had, zlib reads the same and refuses the same."""
    compressed = gzip.compress(CONTENT)
    assert compression.gzip_library() is isal_zlib
    monkeypatch.setattr(compression, "gzip_library", lambda: zlib)

    assert decompress(compressed)[0] == CONTENT
    with pytest.raises(InvalidArchive, match="damaged"):
        decompress(compressed[:-8] + bytes(8))


@given(
    content=st.lists(st.binary(max_size=3000) | st.integers(0, 5000).map(bytes)).map(b"".join),
    level=st.integers(0, 9),
    piece=st.sampled_from([100, 1000, 1 << 16]),
)
def test_gzip_comes_out_the_same_in_pieces_of_any_size(
    content: bytes, level: int, piece: int
) -> None:
    """A bound on what one call returns loses nothing, wherever it falls."""
    with mock.patch.object(compression, "CHUNK", piece):
        assert decompress(gzip.compress(content, level) + bytes(20))[0] == content


@KINDS
def test_streams_one_after_another_are_one(kind: str) -> None:
    """``cat a.gz b.gz`` is an archive too; zeros after the end are padding."""
    one = COMPRESSORS[kind]

    assert decompress(one(b"first") + one(b"") + one(b"second") + bytes(700))[0] == b"firstsecond"


@KINDS
def test_garbage_behind_a_stream_is_refused(kind: str) -> None:
    """What follows must be another stream of the same kind."""
    with pytest.raises(InvalidArchive, match="garbage"):
        decompress(COMPRESSORS[kind](CONTENT) + b"something else")


@KINDS
def test_cut_and_damaged_streams_are_refused(kind: str) -> None:
    """A stream that ends early, or whose check fails, is an error at every place."""
    compressed = COMPRESSORS[kind](os.urandom(3000))

    for length in range(8, len(compressed), 211):
        with pytest.raises(InvalidArchive, match="cut off"):
            decompress(compressed[:length])
    damaged = bytearray(compressed)
    damaged[len(damaged) // 2] ^= 0xFF
    if kind != "zstd":  # a zstd frame has a check only if asked to
        with pytest.raises(InvalidArchive):
            decompress(bytes(damaged))


@KINDS
def test_a_limit_on_bytes_stops_at_once(kind: str) -> None:
    """No more is unpacked than the limit and one piece."""
    compressed = COMPRESSORS[kind](bytes(10_000_000))

    with pytest.raises(InvalidArchive, match="more than the allowed 1000000 bytes"):
        decompress(compressed, Limits(stream_bytes=1_000_000))


def drain(plain: Plain) -> None:
    """Read to the end and keep nothing."""
    while plain.read():
        pass


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_stopped_by_its_ratio(kind: str) -> None:
    """Ten GiB of zeros are refused soon after the first, whatever the limit on bytes is."""
    if kind == "gzip":
        # Deflate streams may be joined: 64 MiB of zeros, 160 times.
        bomb = gzip.compress(bytes(64 << 20), 1) * 160
    else:
        bomb = zstandard.ZstdCompressor(level=1).compress(bytes(64 << 20)) * 160
    with tempfile.TemporaryFile() as file:
        file.write(bomb)
        file.seek(0)
        plain = Plain(Input(file.fileno()), Limits())

        with pytest.raises(InvalidArchive, match="200 times its size"):
            drain(plain)

    assert plain.size < RATIO_GRACE_BYTES + (256 << 20)


def test_a_copy_is_what_came() -> None:
    """The blob kept of an archive is the archive, the bytes looked at first included."""
    compressed = gzip.compress(CONTENT)
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as copy:
        file.write(compressed)
        file.seek(0)
        source = Input(file.fileno())
        plain = Plain(source, Limits())
        source.copy_to(copy.fileno())
        drain(plain)
        copy.seek(0)

        assert copy.read() == compressed


def test_work_ends_when_nobody_wants_it() -> None:
    """The child asks before each piece whether its daemon still lives."""

    def gone() -> None:
        raise Unavailable("gone")

    with tempfile.TemporaryFile() as file, pytest.raises(Unavailable):
        Input(file.fileno(), gone).read()


def test_a_directory_is_no_archive(tmp_path: object) -> None:
    """What cannot be read is an error that says so."""
    fd = os.open(str(tmp_path), os.O_RDONLY)
    try:
        with pytest.raises(InvalidArchive, match="directory"):
            Plain(Input(fd), Limits())
    finally:
        os.close(fd)


@given(st.sampled_from(list(COMPRESSORS)), st.binary(max_size=400), st.data())
def test_fuzzed_streams(kind: str, content: bytes, data: st.DataObject) -> None:
    """Whatever bytes are changed, the result is bytes or InvalidArchive."""
    compressed = bytearray(COMPRESSORS[kind](content))
    for _ in range(data.draw(st.integers(0, 3))):
        if compressed:
            at = data.draw(st.integers(0, len(compressed) - 1))
            compressed[at] = data.draw(st.integers(0, 255))

    try:
        decompress(bytes(compressed))
    except InvalidArchive:
        pass
