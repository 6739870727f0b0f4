"""``load``: docker archives new and old, OCI layouts, and archives that lie."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from aruntime.daemon.unpacking import Loaded
from aruntime.errors import InvalidArchive
from aruntime.images.compression import Limits
from aruntime.images.store import Store
from tests import archives
from tests.archives import OCI, OciLayout, named

Load = Callable[..., list[Loaded]]

BASE = archives.tar(
    archives.directory("etc"), archives.file("etc/a", b"1"), archives.file("etc/b", b"2")
)
TOP = archives.tar(
    archives.directory("etc"), archives.file("etc/.wh.a"), archives.file("top", b"3")
)
ID = archives.digest(archives.image_config([BASE, TOP]))


def check_image(store: Store, name: str) -> None:
    """Check that the image of BASE and TOP is whole."""
    image = store.resolve(name)
    lower, upper = map(Path, image.layers)
    assert image.id == ID
    assert image.diff_ids == (archives.digest(BASE), archives.digest(TOP))
    assert (lower / "etc/b").read_bytes() == b"2"
    assert (upper / "etc/a").is_char_device()
    assert (upper / "top").read_bytes() == b"3"
    assert image.config.cmd == ("/bin/sh",)
    assert image.created_ns == 1_714_979_289_123_456_789


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, zstandard.ZstdCompressor().compress],
    ids=["plain", "gzip", "zstd"],
)
def test_a_docker_archive(store: Store, load_tar: Load, compress: Callable[[bytes], bytes]) -> None:
    """Names, layers and configuration are what docker saved, compressed as a whole or not."""
    (loaded,) = load_tar(compress(archives.docker_archive([BASE, TOP], "tool:1", "me/tool:2")))

    assert loaded.names == ("docker.io/library/tool:1", "docker.io/me/tool:2")
    check_image(store, "tool:1")
    check_image(store, "me/tool:2")


def test_an_oci_archive(store: Store, load_tar: Load) -> None:
    """An OCI layout with gzipped layers gives the same image under the name of its index."""
    layout = OciLayout()

    (loaded,) = load_tar(layout.archive(named(layout.image([BASE, TOP]), "me/tool:1")))

    assert loaded.names == ("docker.io/me/tool:1",)
    check_image(store, "me/tool:1")


def test_zstd_layers(store: Store, load_tar: Load) -> None:
    """Layers may be compressed with zstd."""
    layout = OciLayout()
    compress = zstandard.ZstdCompressor().compress
    manifest = {
        "schemaVersion": 2,
        "config": layout.add(archives.image_config([BASE, TOP]), f"{OCI}.config.v1+json"),
        "layers": [
            layout.add(compress(layer), f"{OCI}.layer.v1.tar+zstd") for layer in (BASE, TOP)
        ],
    }

    load_tar(layout.archive(named(layout.add_json(manifest, f"{OCI}.manifest.v1+json"), "t:1")))

    check_image(store, "t:1")


def test_the_right_platform_is_chosen_from_a_nested_index(store: Store, load_tar: Load) -> None:
    """Of an index of several platforms the asked-for one is taken; attestations never are."""
    layout = OciLayout()
    platforms = [("linux", "s390x"), ("linux", "amd64"), ("unknown", "unknown")]
    entries = [
        {
            **layout.image([BASE] if arch != "amd64" else [BASE, TOP]),
            "platform": {"os": system, "architecture": arch},
        }
        for system, arch in platforms
    ]
    inner = layout.add_json({"schemaVersion": 2, "manifests": entries}, f"{OCI}.index.v1+json")
    archive = layout.archive(named(inner, "multi:1"))

    load_tar(archive, platform="linux/amd64")
    check_image(store, "multi:1")

    load_tar(archive, platform="linux/s390x")
    assert len(store.resolve("multi:1").layers) == 1
    with pytest.raises(InvalidArchive, match="no image for linux/riscv64, but for linux/amd64"):
        load_tar(archive, platform="linux/riscv64")


def test_a_flat_index_of_one_name_is_one_image(store: Store, load_tar: Load) -> None:
    """Entries of one name that differ in platform are one image; other names are others."""
    layout = OciLayout()
    here, there = layout.image([BASE, TOP]), layout.image([BASE])

    loaded = load_tar(
        layout.archive(
            named(there, "a:1", platform={"os": "linux", "architecture": "arm64"}),
            named(here, "a:1", platform={"os": "linux", "architecture": "amd64"}),
            named(there, "b:1"),
        ),
        platform="linux/amd64",
    )

    assert [one.names for one in loaded] == [
        ("docker.io/library/a:1",),
        ("docker.io/library/b:1",),
    ]
    check_image(store, "a:1")


def test_containerd_names_come_first_and_bare_tags_are_no_names(load_tar: Load) -> None:
    """ref.name may be only a tag, of whatever repository."""
    layout = OciLayout()
    image = layout.image([BASE])

    (bare,) = load_tar(layout.archive(named(image, "latest")))
    assert bare.names == ()

    image["annotations"] = {
        "org.opencontainers.image.ref.name": "1.0",
        "io.containerd.image.name": "docker.io/library/full:1.0",
    }
    (full,) = load_tar(layout.archive(image))
    assert full.names == ("docker.io/library/full:1.0",)


def test_signatures_beside_images_are_left_out(load_tar: Load) -> None:
    """Whatever is neither manifest nor index is passed over."""
    layout = OciLayout()
    signature = layout.add(b"{}", "application/vnd.example.signature+json")

    loaded = load_tar(layout.archive(named(layout.image([BASE]), "a:1"), signature))

    assert len(loaded) == 1


def legacy_archive() -> bytes:
    """Write what docker before 1.10 saved: no manifest.json."""
    one, two = "1" * 64, "2" * 64
    base = {"id": one, "created": "2014-01-01T00:00:00Z", "architecture": "amd64", "os": "linux"}
    top = {
        **base,
        "id": two,
        "parent": one,
        "created": "2015-01-01T00:00:00Z",
        "config": {"Cmd": ["/old"], "Env": ["A=1"]},
        "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) CMD"]},
    }
    return archives.tar(
        archives.file("repositories", json.dumps({"old/tool": {"1": two, "2": two}}).encode()),
        *(
            member
            for layer_id, layer, document in ((one, BASE, base), (two, TOP, top))
            for member in (
                archives.directory(layer_id),
                archives.file(f"{layer_id}/VERSION", b"1.0"),
                archives.file(f"{layer_id}/json", json.dumps(document).encode()),
                archives.file(f"{layer_id}/layer.tar", layer),
            )
        ),
    )


def test_an_archive_from_before_manifests(store: Store, load_tar: Load) -> None:
    """The chain of parents becomes layers, the topmost layer's description the configuration."""
    (loaded,) = load_tar(legacy_archive())

    image = store.resolve("old/tool:2")
    assert loaded.names == ("docker.io/old/tool:1", "docker.io/old/tool:2")
    assert image.diff_ids == (archives.digest(BASE), archives.digest(TOP))
    assert (image.config.cmd, image.config.env) == (("/old",), ("A=1",))
    assert image.created_ns == 1_420_070_400_000_000_000
    assert len(image.history) == 2


def test_layers_reached_through_links_and_used_twice(store: Store, load_tar: Load) -> None:
    """docker saved repeated layers as links to ../<id>/layer.tar, skopeo all of them."""
    empty = archives.tar()
    config = archives.image_config([BASE, empty, TOP, empty])
    name = f"{archives.digest(config)[7:]}.json"
    paths = ["a/layer.tar", "b/layer.tar", "c/layer.tar", "d/layer.tar"]
    manifest = [{"Config": name, "RepoTags": ["t:1"], "Layers": paths}]

    load_tar(
        archives.tar(
            archives.file(name, config),
            archives.file("base.tar", BASE),
            archives.symlink("a/layer.tar", "../base.tar"),
            archives.file("b/layer.tar", empty),
            archives.file("c/layer.tar", TOP),
            archives.symlink("d", "/b"),
            archives.file("manifest.json", json.dumps(manifest).encode()),
        )
    )

    image = store.resolve("t:1")
    assert image.diff_ids == tuple(map(archives.digest, (BASE, empty, TOP, empty)))
    assert image.layers[1] == image.layers[3]


def test_loading_again_changes_nothing(store: Store, load_tar: Load) -> None:
    """Content is known by its digest."""
    archive = archives.docker_archive([BASE, TOP], "t:1")
    load_tar(archive)
    before = (store.list(), Path(store.base, "index.json").read_bytes())

    (loaded,) = load_tar(archive)

    assert loaded.displaced == {}
    assert (store.list(), Path(store.base, "index.json").read_bytes()) == before


def test_a_name_taken_from_another_image_is_told(store: Store, load_tar: Load) -> None:
    """The image that had the name before is reported, and stays."""
    load_tar(archives.docker_archive([BASE], "t:1"))
    old = store.resolve("t:1").id

    (loaded,) = load_tar(archives.docker_archive([BASE, TOP], "t:1"))

    assert loaded.displaced == {"docker.io/library/t:1": old}
    assert store.resolve(old).names == ()


def test_a_layer_known_under_another_base_is_unpacked_anew_if_it_leaned_on_it(
    store: Store, load_tar: Load
) -> None:
    """A hard link into the layer below gives another directory above another base."""
    link = archives.tar(archives.hard_link("link", "etc/a"))
    other = archives.tar(archives.directory("etc"), archives.file("etc/a", b"other"))
    load_tar(archives.docker_archive([BASE, link], "one:1"))
    load_tar(archives.docker_archive([other, link], "two:1"))
    one, two = store.resolve("one:1"), store.resolve("two:1")

    assert one.diff_ids[1] == two.diff_ids[1]
    assert Path(one.layers[1], "link").read_bytes() == b"1"
    assert Path(two.layers[1], "link").read_bytes() == b"other"


def broken_docker(change: Callable[[dict[str, Any], list[archives.Member]], None]) -> bytes:
    """Write a docker archive after a change to its manifest entry or members."""
    members = archives.docker_members([BASE, TOP], ["t:1"])
    entry = json.loads(members[-1][1])[0]
    change(entry, members)
    manifest = archives.file("manifest.json", json.dumps([entry]).encode())
    return archives.tar(*members[:-1], manifest)


def set_entry(**fields: Any) -> Callable[[dict[str, Any], list[archives.Member]], None]:
    """Return a change of the manifest entry."""
    return lambda entry, _members: entry.update(fields)


def swap_layers(_entry: dict[str, Any], members: list[archives.Member]) -> None:
    """Exchange the layers: their digests no longer fit the configuration."""
    members[1], members[2] = (
        archives.file(members[1][0].name, TOP),
        archives.file(members[2][0].name, BASE),
    )


def other_config(_entry: dict[str, Any], members: list[archives.Member]) -> None:
    """Put another configuration under the name of the first."""
    members[0] = archives.file(
        members[0][0].name, archives.image_config([BASE, TOP], Cmd=["/evil"])
    )


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (archives.tar(archives.file("x")), "neither a docker nor an OCI archive.*aruntime import"),
        (b"not an archive", "not a tar archive"),
        (archives.tar(archives.file("manifest.json", b"{")), "not valid JSON"),
        (archives.tar(archives.file("manifest.json", b"{}")), "not a JSON list"),
        (archives.tar(archives.file("manifest.json", b"[]")), "holds no image"),
        (archives.tar(archives.file("manifest.json", b"[1]")), "no object"),
        (archives.tar(archives.file("manifest.json", b"[" * 200_000)), "not valid JSON"),
        (archives.tar(archives.file("manifest.json", b" " * (9 << 20))), "too many"),
        (archives.tar(archives.symlink("manifest.json", "/etc/passwd")), "neither a docker"),
        (archives.tar(archives.entry("manifest.json", tarfile.CHRTYPE, devmajor=1, devminor=5)),
         "'manifest.json' has no place"),
        (archives.tar(archives.entry("manifest.json", tarfile.FIFOTYPE)), "has no place"),
        (broken_docker(set_entry(Config="../../../etc/passwd")), "no '../../../etc/passwd'"),
        (broken_docker(set_entry(Config="")), "names ''"),
        (broken_docker(set_entry(Config=None)), "no valid Config"),
        (broken_docker(set_entry(Layers=["0/layer.tar"])), "2 diff ids for 1 layers"),
        (broken_docker(set_entry(Layers=["0/layer.tar", "/proc/self/mem"])), "no '/proc/self/mem'"),
        (broken_docker(set_entry(Layers=["0/layer.tar", "0"])), "'0' of the archive is not a file"),
        (broken_docker(set_entry(Layers="x")), "no valid Layers"),
        (broken_docker(set_entry(RepoTags=["a\nb"])), "names an image wrongly"),
        (broken_docker(set_entry(RepoTags=["../x:1"])), "names an image wrongly"),
        (broken_docker(swap_layers), "damaged or was altered"),
        (broken_docker(other_config), "damaged or was altered"),
        (archives.docker_archive([BASE], "t:1", config=b"{}"), "no valid rootfs"),
        (archives.docker_archive([BASE], "t:1", config=b'{"rootfs":{"diff_ids":["sha256:../x"]}}'),
         "not a sha256 digest"),
        (archives.docker_archive([archives.tar(archives.file("../x"))], "t:1"), "'../x' lies"),
        (archives.docker_archive([b"no tar"], "t:1"), "not a tar archive"),
    ],
)  # fmt: skip
def test_docker_archives_that_lie(
    load_tar: Load, is_empty: Callable[[], bool], archive: bytes, message: str
) -> None:
    """Each is one line that says what is wrong, and nothing is left."""
    with pytest.raises(InvalidArchive, match=message) as caught:
        load_tar(archive)

    assert "\n" not in caught.value.message
    assert is_empty()


def oci(change: Callable[[OciLayout], dict[str, Any]], **index: Any) -> bytes:
    """Write an OCI archive of what a function makes."""
    layout = OciLayout()
    return layout.archive(named(change(layout), "t:1"), **index)


def altered_layer(layout: OciLayout) -> dict[str, Any]:
    """Change a byte of a compressed layer."""
    image = layout.image([BASE])
    name = archives.digest(gzip.compress(BASE, 1, mtime=0))
    layout.blobs[name] = gzip.compress(BASE, 1, mtime=1)
    return image


def altered_config(layout: OciLayout) -> dict[str, Any]:
    """Change the configuration."""
    image = layout.image([BASE])
    layout.blobs[archives.digest(archives.image_config([BASE]))] = b"{}"
    return image


def missing_layer(layout: OciLayout) -> dict[str, Any]:
    """Leave a layer out."""
    image = layout.image([BASE])
    del layout.blobs[archives.digest(gzip.compress(BASE, 1, mtime=0))]
    return image


def with_config_type(layout: OciLayout) -> dict[str, Any]:
    """Describe something that is no image."""
    config = layout.add(b"{}", "application/vnd.example.chart")
    manifest = {"schemaVersion": 2, "config": config, "layers": []}
    return layout.add_json(manifest, f"{OCI}.manifest.v1+json")


def with_layer_type(layout: OciLayout) -> dict[str, Any]:
    """Use a layer type nobody knows."""
    manifest = {
        "schemaVersion": 2,
        "config": layout.add(archives.image_config([BASE]), f"{OCI}.config.v1+json"),
        "layers": [layout.add(BASE, f"{OCI}.layer.v1.tar+encrypted")],
    }
    return layout.add_json(manifest, f"{OCI}.manifest.v1+json")


def endless_index(layout: OciLayout) -> dict[str, Any]:
    """Nest indexes."""
    inner = layout.image([BASE])
    for _ in range(9):
        inner = layout.add_json({"schemaVersion": 2, "manifests": [inner]}, f"{OCI}.index.v1+json")
    return inner


def wrong_size(layout: OciLayout) -> dict[str, Any]:
    """Lie about the size of the manifest."""
    return {**layout.image([BASE]), "size": 7}


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (oci(lambda layout: layout.image([BASE], manifests=[])), "ambiguous.*manifests"),
        (oci(lambda layout: layout.image([BASE], mediaType=f"{OCI}.index.v1+json")), "ambiguous"),
        (oci(lambda layout: layout.image([BASE]), layers=[]), "ambiguous.*layers"),
        (oci(lambda layout: layout.image([BASE]), config={}), "ambiguous"),
        (oci(lambda layout: layout.image([BASE]), mediaType="x/y"), "not an index"),
        (oci(altered_layer), "damaged or was altered"),
        (oci(altered_config), "damaged or was altered"),
        (oci(missing_layer), "the archive has no"),
        (oci(with_config_type), "no container image"),
        (oci(with_layer_type), "layer of unknown type"),
        (oci(endless_index), "nested too deeply"),
        (oci(wrong_size), "damaged or was altered"),
        (oci(lambda layout: {**layout.image([BASE]), "digest": "sha256:../../x"}), "other than"),
        (oci(lambda layout: {**layout.image([BASE]), "size": -1}), "negative size"),
        (oci(lambda layout: {**layout.image([BASE]), "mediaType": 1}), "no valid mediaType"),
        (OciLayout().archive(), "holds no image"),
        (OciLayout().archive(1), "no object"),  # type: ignore[arg-type]  # that is the case
        (archives.tar(archives.file("index.json", b"[]")), "not a JSON object"),
    ],
)
def test_oci_archives_that_lie(
    load_tar: Load, is_empty: Callable[[], bool], archive: bytes, message: str
) -> None:
    """Digests, sizes, media types; documents that could be read as two things (CVE-2021-41190)."""
    with pytest.raises(InvalidArchive, match=message) as caught:
        load_tar(archive)

    assert "\n" not in caught.value.message
    assert is_empty()


def test_one_bad_image_of_several_spoils_all(load_tar: Load, is_empty: Callable[[], bool]) -> None:
    """Nothing of an archive is taken when a part of it is broken."""
    good, bad = (archives.docker_members([layer], [name]) for layer, name in
                 ((BASE, "a:1"), (b"broken", "b:1")))  # fmt: skip
    entries = [json.loads(good[-1][1])[0], json.loads(bad[-1][1])[0]]
    entries[1]["Layers"] = ["other/layer.tar"]
    archive = archives.tar(
        *good[:-1],
        bad[0],
        archives.file("other/layer.tar", b"broken"),
        archives.file("manifest.json", json.dumps(entries).encode()),
    )

    with pytest.raises(InvalidArchive):
        load_tar(archive)

    assert is_empty()


def test_an_endless_chain_of_parents_is_refused(
    load_tar: Load, is_empty: Callable[[], bool]
) -> None:
    """A layer that is its own parent must not hang the load."""
    one = "1" * 64
    archive = archives.tar(
        archives.file("repositories", json.dumps({"t": {"1": one}}).encode()),
        archives.file(f"{one}/json", json.dumps({"id": one, "parent": one}).encode()),
        archives.file(f"{one}/layer.tar", BASE),
    )

    with pytest.raises(InvalidArchive, match="128 parents"):
        load_tar(archive)

    assert is_empty()


def test_limits_hold_for_each_layer(load_tar: Load, is_empty: Callable[[], bool]) -> None:
    """A small archive with a large compressed layer is stopped as well."""
    layer = archives.tar(archives.file("zeros", bytes(1 << 20)))
    layout = OciLayout()
    archive = layout.archive(named(layout.image([layer]), "t:1"))

    with pytest.raises(InvalidArchive, match="more than the allowed"):
        load_tar(archive, limits=Limits(stream_bytes=1 << 18))

    assert is_empty()
