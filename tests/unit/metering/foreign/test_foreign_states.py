"""What other programs' files tell about their containers, whole, strange and broken."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aruntime.cgroups.driver import Cgroup
from aruntime.errors import InvalidParameter
from aruntime.metering.foreign import bolt, docker, identity, kubernetes, podman
from aruntime.metering.foreign.identity import States, identify, is_kept
from aruntime.metering.foreign.known import Known, labels, text, unix_ns

ID = "0123456789abcdef" * 4
IMAGE = "fedcba9876543210" * 4
DOCKER_CONFIG = {
    "ID": ID,
    "Created": "2026-11-24T05:01:23.006058172Z",
    "Name": "/web",
    "Image": f"sha256:{IMAGE}",
    "Config": {"Image": "shop:1", "Labels": {"aruntime.tenant": "acme", "tier": "front"}},
}
PODMAN_CONFIG = {
    "name": "db",
    "rootfsImageName": "localhost/db:2",
    "rootfsImageID": IMAGE,
    "labels": {"aruntime.tenant": "umbrella"},
}
STORED = {
    "id": ID,
    "names": ["db"],
    "image": IMAGE,
    "metadata": json.dumps({"image-name": "localhost/db:2", "name": "db"}),
    "created": "2026-11-24T05:01:24.5Z",
}


def put(path: Path, content: object) -> Path:
    """Write JSON, or bytes as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def bolt_file(container_id: str, value: bytes, page_size: int = 4096, many: int = 0) -> bytes:
    """A bolt database with bucket ctr, a bucket per container, key config.

    With ``many`` containers beside it the bucket ctr is a branch page over leaf pages.
    """

    def leaf(items: list[tuple[bytes, bytes, bool]], number: int, pages: int = 1) -> bytes:
        heads, bodies = b"", b""
        for place, (key, item, is_bucket) in enumerate(items):
            offset = (len(items) - place) * 16 + len(bodies)
            heads += struct.pack("=IIII", int(is_bucket), offset, len(key), len(item))
            bodies += key + item
        page = struct.pack("=QHHI", number, 2, len(items), pages - 1) + heads + bodies
        assert len(page) <= pages * page_size
        return page if number < 0 else page.ljust(pages * page_size, b"\0")

    def inline(items: list[tuple[bytes, bytes, bool]]) -> bytes:
        head = struct.pack("=QQ", 0, 0)
        return head + leaf(items, 0).rstrip(b"\0").ljust(16 + 16 * len(items), b"\0")

    def meta(number: int, transaction: int, root: int) -> bytes:
        head = struct.pack("=QHHI", number, 4, 0, 0)
        body = struct.pack("=IIIIQQQQQ", bolt.MAGIC, 2, page_size, 0, root, 0, 2, 100, transaction)
        checksum = struct.pack("=Q", bolt.fnv1a(body))
        return (head + body + checksum).ljust(page_size, b"\0")

    ids = sorted([container_id, *(f"{number:064x}" for number in range(many))])
    pages = (len(value) + 200) // page_size + 1
    rows = [(each.encode(), b"", True) for each in ids]
    rows = [(key, inline([(b"state", b"{}", False)]), True) for key, _, _ in rows]
    own = struct.pack("=QQ", 4, 0)
    rows = [(key, own if key == container_id.encode() else item, b) for key, item, b in rows]
    content = meta(0, 7, 3) + meta(1, 6, 99) + bytes(page_size)
    content += leaf([(b"all-ctrs", b"x", False), (b"ctr", struct.pack("=QQ", 50, 0), True)], 3)
    content += leaf([(b"config", value, False), (b"state", b"{}", False)], 4, pages)
    content = content.ljust(50 * page_size, b"\0")
    if not many:
        return content + leaf(rows, 50)
    halves = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    branch = struct.pack("=QHHI", 50, 1, 2, 0)
    keys = [half[0][0] for half in halves]
    for place, key in enumerate(keys):
        branch += struct.pack("=IIQ", (2 - place) * 16 + place * 64, len(key), 51 + place)
    branch = (branch + b"".join(keys)).ljust(page_size, b"\0")
    return content + branch + leaf(halves[0], 51) + leaf(halves[1], 52)


@pytest.mark.parametrize("many", [0, 20])
@pytest.mark.parametrize("size", [300, 30_000])
def test_bolt_finds_a_value(tmp_path: Path, many: int, size: int) -> None:
    """In place, behind a branch page, and longer than a page."""
    value = b"v" * size
    path = put(tmp_path / "b.db", bolt_file(ID, value, many=many))
    assert bolt.get(str(path), (b"ctr", ID.encode()), b"config") == value
    assert bolt.get(str(path), (b"ctr", b"absent"), b"config") is None
    assert bolt.get(str(path), (b"none", ID.encode()), b"config") is None
    assert bolt.get(str(path), (b"ctr", ID.encode()), b"nothing") is None
    if many:
        other = b"%064x" % (many - 1)
        assert bolt.get(str(path), (b"ctr", other), b"state") == b"{}"


def test_bolt_takes_the_newer_valid_meta_page(tmp_path: Path) -> None:
    """A meta page whose checksum is wrong was being written when its program died."""
    content = bytearray(bolt_file(ID, b"whole"))
    content[4096 + 16 + 8] ^= 1
    path = put(tmp_path / "b.db", bytes(content))
    assert bolt.get(str(path), (b"ctr", ID.encode()), b"config") == b"whole"
    content[16 + 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(bolt.Damaged, match="no valid meta page"):
        bolt.get(str(path), (b"ctr", ID.encode()), b"config")


@given(st.binary(max_size=64), st.integers(0, 60 * 4096), st.integers(0, 60 * 4096))
def test_bolt_survives_any_damage(damage: bytes, place: int, cut: int) -> None:
    """Whatever stands in the file: a value, none, or Damaged; never a crash or a long wait."""
    content = bytearray(bolt_file(ID, b"value" * 100, many=3))
    content[place : place + len(damage)] = damage
    kept = bytes(content[: max(cut, len(content) - cut)])
    try:
        snapshot = bolt.Snapshot(lambda offset, length: kept[offset : offset + length])
        snapshot.get((b"ctr", ID.encode()), b"config")
    except bolt.Damaged:
        pass


def test_docker_container(tmp_path: Path) -> None:
    """Name, image, labels and time of creation come from config.v2.json."""
    put(tmp_path / f"containers/{ID}/config.v2.json", DOCKER_CONFIG)
    assert docker.read(str(tmp_path), ID) == Known(
        name="web",
        image="shop:1",
        image_digest=f"sha256:{IMAGE}",
        labels={"aruntime.tenant": "acme", "tier": "front"},
        created_ns=1795496483006058172,
    )
    assert docker.is_known(str(tmp_path), ID)
    assert docker.read(str(tmp_path), "f" * 64) is None


def test_an_image_cannot_say_who_pays(tmp_path: Path) -> None:
    """A tenant that came with the image's labels is dropped, one given at the start is kept."""
    image = {"config": {"Labels": {"aruntime.tenant": "acme"}}}
    put(tmp_path / f"containers/{ID}/config.v2.json", DOCKER_CONFIG)
    put(tmp_path / f"image/overlay2/imagedb/content/sha256/{IMAGE}", image)
    known = docker.read(str(tmp_path), ID)
    assert known is not None
    assert known.labels == {"tier": "front"}
    image["config"]["Labels"]["aruntime.tenant"] = "other"
    put(tmp_path / f"image/overlay2/imagedb/content/sha256/{IMAGE}", image)
    known = docker.read(str(tmp_path), ID)
    assert known is not None
    assert known.labels["aruntime.tenant"] == "acme"


def test_an_image_of_podman_cannot_say_who_pays(tmp_path: Path) -> None:
    """The same by containers/storage's names."""
    put(tmp_path / podman.BOLT, bolt_file(ID, json.dumps(PODMAN_CONFIG).encode()))
    name = base64.b64encode(f"sha256:{IMAGE}".encode()).decode()
    image = {"config": {"Labels": {"aruntime.tenant": "umbrella"}}}
    put(tmp_path / f"overlay-images/{IMAGE}/={name}", image)
    known = podman.read(str(tmp_path), ID)
    assert known is not None
    assert known.labels == {}


@pytest.mark.parametrize("database", ["bolt", "db.sql", "libpod/db.sql", "none"])
def test_podman_container(tmp_path: Path, database: str) -> None:
    """podman 4's bolt and podman 5's SQLite tell the same; the storage alone tells the name."""
    put(tmp_path / "overlay-containers/containers.json", [{"id": "else"}, STORED])
    if database == "bolt":
        put(tmp_path / podman.BOLT, bolt_file(ID, json.dumps(PODMAN_CONFIG).encode()))
    elif database != "none":
        (tmp_path / database).parent.mkdir(exist_ok=True)
        with sqlite3.connect(tmp_path / database) as connection:
            connection.execute(
                "CREATE TABLE ContainerConfig(ID TEXT PRIMARY KEY NOT NULL,"
                " Name TEXT UNIQUE NOT NULL, PodID TEXT, JSON TEXT NOT NULL)"
            )
            row = (ID, "db", None, json.dumps(PODMAN_CONFIG))
            connection.execute("INSERT INTO ContainerConfig VALUES (?, ?, ?, ?)", row)
        connection.close()
    expected = {} if database == "none" else {"aruntime.tenant": "umbrella"}
    assert podman.read(str(tmp_path), ID) == Known(
        name="db",
        image="localhost/db:2",
        image_digest=f"sha256:{IMAGE}",
        labels=expected,
        created_ns=1795496484500000000,
    )
    assert podman.read(str(tmp_path), "f" * 64) is None
    assert podman.is_known(str(tmp_path), ID)


def test_podman_sees_the_file_that_replaced_another(tmp_path: Path) -> None:
    """The parsed list is kept only as long as the file is the same."""
    path = put(tmp_path / "overlay-containers/containers.json", [STORED])
    assert podman.is_known(str(tmp_path), ID)
    put(tmp_path / "new", [])
    os.replace(tmp_path / "new", path)
    assert not podman.is_known(str(tmp_path), ID)


def test_kubernetes_names_from_the_log_link(tmp_path: Path) -> None:
    """Pod, namespace and container stand in the link's name."""
    (tmp_path / f"web-7d4b_shop_front-end-{ID}.log").touch()
    known = kubernetes.read(str(tmp_path), ID)
    assert known == Known(
        name="shop/web-7d4b/front-end",
        labels={
            "io.kubernetes.pod.name": "web-7d4b",
            "io.kubernetes.pod.namespace": "shop",
            "io.kubernetes.container.name": "front-end",
        },
    )
    assert kubernetes.read(str(tmp_path), "f" * 64) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"Name": 3, "Config": []}'],
)
def test_broken_docker_file_leaves_the_path_name(tmp_path: Path, content: bytes) -> None:
    """Half written, of another shape, hostile: metered under its id."""
    put(tmp_path / f"containers/{ID}/config.v2.json", content)
    subject = identify(f"/docker/{ID}", Cgroup("/x", {}), States(docker=str(tmp_path)))
    assert (subject.id, subject.name, subject.tenant) == (ID, ID[:12], "default")
    assert subject.labels["aruntime.engine"] == "docker"


def test_no_regular_file_is_not_read(tmp_path: Path) -> None:
    """A named pipe in the file's place holds nobody."""
    path = tmp_path / f"containers/{ID}/config.v2.json"
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert docker.read(str(tmp_path), ID) is None


def test_broken_podman_files_leave_the_path_name(tmp_path: Path) -> None:
    """Neither database nor list can be read: the container is still known by its path."""
    put(tmp_path / podman.BOLT, b"x" * 10_000)
    put(tmp_path / "db.sql", b"y" * 10_000)
    put(tmp_path / "overlay-containers/containers.json", b"{")
    where = States(podman=str(tmp_path))
    subject = identify(f"/libpod_parent/libpod-{ID}", Cgroup("/x", {}), where)
    assert (subject.id, subject.name) == (ID, ID[:12])
    assert not is_kept(subject, where)


def test_identity_of_each_kind(tmp_path: Path) -> None:
    """Who it is to the meter: docker by its file, Kubernetes by pod, others by their path."""
    put(tmp_path / f"containers/{ID}/config.v2.json", DOCKER_CONFIG)
    where = States(docker=str(tmp_path), podman="/nonexistent", kubernetes="/nonexistent")
    cgroup = Cgroup("/x", {})
    web = identify(f"/docker/{ID}", cgroup, where)
    assert (web.name, web.tenant, web.image, web.cgroup) == ("web", "acme", "shop:1", cgroup)
    assert web.labels == {
        "aruntime.tenant": "acme",
        "tier": "front",
        "aruntime.engine": "docker",
        "aruntime.cgroup": f"/docker/{ID}",
    }
    assert is_kept(web, where)
    assert identify(f"/custom/{ID}", cgroup, where).labels["aruntime.engine"] == "docker"
    other = identify(f"/custom/{'f' * 64}", cgroup, where)
    assert (other.id, other.labels["aruntime.engine"]) == ("f" * 64, "cgroup")
    pod = identify(f"/kubepods/burstable/pod12-34/{'e' * 64}", cgroup, where)
    assert pod.labels["io.kubernetes.pod.uid"] == "12-34"
    assert pod.labels["io.kubernetes.pod.qos"] == "burstable"
    plain = identify("/batch/nightly", cgroup, where)
    assert plain.name == "batch/nightly"
    assert len(plain.id) == 64
    assert plain.id == identify("/batch/nightly", cgroup, where).id
    assert plain.id != identify("/batch/daily", cgroup, where).id
    assert not is_kept(plain, where)


@pytest.mark.parametrize("tenant", ["", " a", "a\n", "x" * 129])
def test_invalid_tenant_is_the_default_one(tenant: str) -> None:
    """Nobody is there to be told, and the usage belongs to somebody."""
    assert identity.tenant_of({"aruntime.tenant": tenant}) == "default"


def test_texts_are_valid_and_of_a_length() -> None:
    """What goes into the ledger is Unicode, and no label fills it."""
    assert text("\ud800a") == "?a"
    assert text(3) == ""
    assert len(text("x" * 10_000)) == 4096
    assert len(labels({str(number): "" for number in range(1000)})) == 256
    assert labels({"a": 1, "b": "c"}) == {"b": "c"}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("2026-11-24T05:01:23.006058172Z", 1795496483006058172),
        ("2026-11-24T05:01:23Z", 1795496483000000000),
        ("0001-01-01T00:00:00Z", 0),
        ("yesterday", 0),
        ("2026-11-24T05:01:23.xZ", 0),
        (None, 0),
    ],
)
def test_times(shown: object, expected: int) -> None:
    """Go's times, to the nanosecond; docker's year 1 is no time."""
    assert unix_ns(shown) == expected


def test_state_directories(tmp_path: Path) -> None:
    """Given ones win, then each program's own configuration, then the usual places."""
    assert identity.checked({"docker": "/d"}) == {"docker": "/d"}
    for bad in ({"lxc": "/d"}, {"docker": "d"}):
        with pytest.raises(InvalidParameter, match="invalid state directory"):
            identity.checked(bad)
    assert docker.root(str(put(tmp_path / "d.json", {"data-root": "/data"}))) == "/data"
    assert docker.root(str(tmp_path / "absent")) == docker.DEFAULT_ROOT
    storage = put(tmp_path / "s.conf", b'[storage]\ngraphroot = "/graph"\n')
    assert podman.root(str(storage)) == "/graph"
    assert podman.root(str(put(tmp_path / "t.conf", b"["))) == podman.DEFAULT_ROOT
    assert identity.states({"podman": "/p"}).podman == "/p"
