"""The key that signs checkpoints: made once, private, and nobody signs without it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from aruntime.errors import InvalidParameter
from aruntime.metering.signing import is_signed, load_or_make, public_key


def test_key_is_made_once_and_private(tmp_path: Path) -> None:
    """The first use makes it, later ones load it; only the public half may be read by others."""
    path = tmp_path / "sub" / "ledger.key"
    first, second = load_or_make(path), load_or_make(path)

    assert first.public == second.public == public_key(path) == public_key(f"{path}.pub")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(f"{path}.pub").stat().st_mode) == 0o644
    assert sorted(os.listdir(path.parent)) == ["ledger.key", "ledger.key.pub"]


def test_signatures(tmp_path: Path) -> None:
    """A signature is of one text and one key."""
    signer, other = load_or_make(tmp_path / "a"), load_or_make(tmp_path / "b")
    signature = signer.sign(b"text")

    assert is_signed(signer.public, b"text", signature)
    assert not is_signed(signer.public, b"texT", signature)
    assert not is_signed(other.public, b"text", signature)
    assert not is_signed(signer.public, b"text", "00" * 64)
    assert not is_signed("no key", b"text", signature)


def test_key_of_openssl_is_taken(tmp_path: Path) -> None:
    """A key that openssl made signs, and what it signs openssl accepts."""
    path = tmp_path / "key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    (tmp_path / "text").write_bytes(b"text")
    signature = load_or_make(path).sign(b"text")
    (tmp_path / "signature").write_bytes(bytes.fromhex(signature))
    done = subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-inkey", path, "-rawin",
         "-in", tmp_path / "text", "-sigfile", tmp_path / "signature"],
        capture_output=True,
        check=False,
    )  # fmt: skip

    assert b"Signature Verified Successfully" in done.stdout


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that is no key is named, not overwritten."""
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(InvalidParameter, match="is no Ed25519 private key"):
        load_or_make(path)
    with pytest.raises(InvalidParameter, match="is no Ed25519"):
        public_key(path)

    assert path.read_bytes() == content
