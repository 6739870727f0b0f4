"""Records of networks on disk, and what was cut off."""

from __future__ import annotations

from pathlib import Path

from aruntime.network import store
from aruntime.network.definition import default_definition


def test_what_was_cut_off_is_removed(tmp_path: Path) -> None:
    """Creations before their record and removals after it; records, leases and files stay."""
    definition = default_definition("br-web", "10.77.0.0/24")
    store.save(tmp_path / "web", definition)
    (tmp_path / "aruntime0" / "leases").mkdir(parents=True)
    (tmp_path / "begun").mkdir()
    (tmp_path / "written").mkdir()
    (tmp_path / "written" / "config.json.tmp").write_bytes(b'{"na')
    (tmp_path / ".old.removed" / "leases").mkdir(parents=True)
    (tmp_path / "note.txt").write_text("an administrator's")

    store.remove_leftovers(tmp_path)

    assert {entry.name for entry in tmp_path.iterdir()} == {"web", "aruntime0", "note.txt"}
    assert store.load(tmp_path / "web") == definition


def test_nothing_is_no_leftover(tmp_path: Path) -> None:
    """Before the first network there is no directory."""
    store.remove_leftovers(tmp_path / "networks")

    assert list(tmp_path.iterdir()) == []
