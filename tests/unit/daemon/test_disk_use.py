"""What images share, and what trees take."""

from __future__ import annotations

import os
from pathlib import Path

from aruntime.daemon.disk_use import Shares, layer_bytes, shares, tree_bytes
from aruntime.images.image import Image, ImageConfig


def image(letter: str, **layers: int) -> Image:
    """Make an image of layers with sizes."""
    return Image(
        id=letter, digest="", names=(), config=ImageConfig(), layers=tuple(layers), diff_ids=(),
        size=sum(layers.values()), layer_sizes=tuple(layers.values()), created_ns=0,
    )  # fmt: skip


def test_what_images_share() -> None:
    """A layer of several images is shared; all of them together count it once."""
    images = [image("a", base=10, own=3), image("b", base=10), image("c", alone=7)]
    assert shares(images) == {"a": Shares(10, 3), "b": Shares(10, 0), "c": Shares(0, 7)}
    assert layer_bytes(images) == 20
    assert layer_bytes([]) == 0


def test_a_tree_of_every_kind(tmp_path: Path) -> None:
    """Links are not followed, a file with two names counts once, holes do not count."""
    (tmp_path / "dir/deep").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"x" * 5000)
    os.link(tmp_path / "file", tmp_path / "dir/again")
    (tmp_path / "dir/deep/small").write_bytes(b"1")
    (tmp_path / "link").symlink_to("/usr")
    (tmp_path / "dir/out").symlink_to("/")
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert tree_bytes(str(tmp_path)) == 5001
    assert tree_bytes(str(tmp_path / "missing")) == 0


def test_wide_trees_take_few_descriptors(tmp_path: Path) -> None:
    """The daemon has other uses for them."""
    for number in range(300):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "f").write_bytes(b"1")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        assert tree_bytes(str(tmp_path)) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
