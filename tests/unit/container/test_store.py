"""Container records on disk: durable writes, one broken file among good ones, removal."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from aruntime.container import store
from aruntime.container.config import ContainerConfig, Mount, RestartPolicy
from aruntime.container.state import ContainerState, Status


def config(number: int) -> ContainerConfig:
    """A record with a few fields off their defaults."""
    return ContainerConfig(
        id=f"{number:064x}",
        name=f"c{number}",
        created_ns=1_000_000 - number,
        image="busybox",
        image_id="sha256:" + "0" * 64,
        args=["sh", "-c", "echo \u00e9"],
        hostname="box",
        mounts=[Mount(type="bind", source="/src", target="/dst", read_only=True)],
        restart=RestartPolicy(name="on-failure", max_retries=3),
        labels={"aruntime.tenant": "a"},
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Config and state come back equal."""
    written = config(1), ContainerState(status=Status.RUNNING, pid=7, start_time=99, boot_id="b")
    directory = store.make(str(tmp_path / "containers"), *written)
    assert store.load(directory) == written


def test_directory_and_files_are_private(tmp_path: Path) -> None:
    """Environment variables hold secrets: no other user reads them."""
    directory = store.make(str(tmp_path / "containers"), config(1), ContainerState(pid=5))
    assert os.stat(directory).st_mode & 0o007 == 0
    for name in (store.CONFIG_NAME, store.STATE_NAME):
        assert os.stat(f"{directory}/{name}").st_mode & 0o077 == 0


def test_replaced_file_keeps_no_temporary(tmp_path: Path) -> None:
    """After a save there is the file and nothing else."""
    directory = store.make(str(tmp_path), config(1), ContainerState())
    store.save_state(directory, ContainerState(status=Status.EXITED, exit_code=3))
    assert sorted(os.listdir(directory)) == [store.CONFIG_NAME, store.STATE_NAME]
    assert store.load(directory)[1].exit_code == 3


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails at fsync keeps the old record and no temporary file."""
    directory = store.make(str(tmp_path), config(1), ContainerState(pid=5))

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.save_state(directory, ContainerState(pid=6))
    assert sorted(os.listdir(directory)) == [store.CONFIG_NAME, store.STATE_NAME]
    assert store.load(directory)[1].pid == 5


def test_failed_make_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A creation that fails half-way removes its directory."""

    def broken(path: str) -> None:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(store, "sync_directory", broken)
    with pytest.raises(OSError, match="Input/output"):
        store.make(str(tmp_path), config(1), ContainerState())
    assert os.listdir(tmp_path) == []


def test_id_is_taken_once(tmp_path: Path) -> None:
    """A second container of the same id is refused and the first stays."""
    directory = store.make(str(tmp_path), config(1), ContainerState())
    with pytest.raises(FileExistsError):
        store.make(str(tmp_path), config(1), ContainerState())
    assert store.load(directory)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b'{"status": "sleeping"}', b'{"pid": "x"}']
)
def test_one_broken_state_hides_no_other(tmp_path: Path, content: bytes) -> None:
    """The broken one is named with its file; the others load, oldest first."""
    for number in (1, 2, 3):
        store.make(str(tmp_path), config(number), ContainerState())
    broken_path = tmp_path / config(2).id / store.STATE_NAME
    broken_path.write_bytes(content)
    loaded, broken = store.load_all(str(tmp_path))
    assert [item[0].name for item in loaded] == ["c3", "c1"]
    assert len(broken) == 1
    assert str(broken_path) in broken[0].message
    assert "\n" not in broken[0].message


def test_missing_config_is_named(tmp_path: Path) -> None:
    """A directory without config.json is an error that says which."""
    (tmp_path / "deadbeef").mkdir()
    loaded, broken = store.load_all(str(tmp_path))
    assert loaded == []
    assert "deadbeef/config.json" in broken[0].message


@pytest.mark.parametrize("auto_remove", [False, True])
@pytest.mark.parametrize("starting", [False, True])
def test_creation_is_read_again(tmp_path: Path, auto_remove: bool, starting: bool) -> None:
    """A container that never ran comes back as it was made; with --rm it matters for what."""
    made = msgspec.structs.replace(config(1), auto_remove=auto_remove)
    state = ContainerState(starting=starting and auto_remove)
    assert store.load(store.make(str(tmp_path), made, state)) == (made, state)


def test_missing_state_means_created(tmp_path: Path) -> None:
    """A creation cut off between the two files counts as created."""
    directory = store.make(str(tmp_path), config(1), ContainerState(status=Status.RUNNING))
    os.unlink(f"{directory}/{store.STATE_NAME}")
    assert store.load(directory)[1].status is Status.CREATED


def test_config_of_another_container_is_refused(tmp_path: Path) -> None:
    """A copied directory is not a second container of the same id."""
    directory = store.make(str(tmp_path), config(1), ContainerState())
    os.rename(directory, tmp_path / config(2).id)
    _, broken = store.load_all(str(tmp_path))
    assert "belongs to container" in broken[0].message


def test_no_directory_means_no_containers(tmp_path: Path) -> None:
    """A fresh root has none."""
    assert store.load_all(str(tmp_path / "none")) == ([], [])


def test_removal_takes_everything(tmp_path: Path) -> None:
    """Files inside go too; removing twice is no error."""
    directory = store.make(str(tmp_path), config(1), ContainerState())
    os.makedirs(f"{directory}/upper/a/b")
    store.remove(directory)
    store.remove(directory)
    assert os.listdir(tmp_path) == []


def test_removal_cut_off_is_finished_later(tmp_path: Path) -> None:
    """A half-removed container is not loaded, and goes at the next start."""
    directory = store.make(str(tmp_path), config(1), ContainerState())
    os.rename(directory, tmp_path / f".{config(1).id}.removed")
    assert store.load_all(str(tmp_path)) == ([], [])
    store.remove_leftovers(str(tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
def test_creation_cut_off_is_undone_later(tmp_path: Path, call: str) -> None:
    """A process that dies at any call of a creation leaves the whole container or none."""
    occurrence = 0
    while True:
        occurrence += 1
        if die_while_making(tmp_path, call, occurrence) == 0:
            break
        found, broken = store.load_all(str(tmp_path))
        assert broken == []
        store.remove_leftovers(str(tmp_path))
        assert len(os.listdir(tmp_path)) == len(found)
        for _config, _state, directory in found:
            store.remove(directory)
    assert occurrence >= 2
    assert len(store.load_all(str(tmp_path))[0]) == 1


def die_while_making(containers: Path, call: str, occurrence: int) -> int:
    """Make a container in a child that ends before its n-th call of os.CALL; its exit code."""
    pid = os.fork()  # noqa: TID251 -- the child must die without unwinding
    if pid == 0:
        real, seen = getattr(os, call), 0

        def last(*args: object, **named: object) -> object:
            nonlocal seen
            seen += 1
            if seen == occurrence:
                os._exit(7)
            return real(*args, **named)

        setattr(os, call, last)
        store.make(str(containers), config(1), ContainerState())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
