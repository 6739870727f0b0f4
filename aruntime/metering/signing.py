"""The key that signs checkpoints: Ed25519, in a file beside the configuration, never in ROOT.

Whoever can write the ledger but not read the key cannot make it look untouched. The key is made
when it is first needed (PKCS8 PEM, mode 0600), with its public half beside it in ``FILE.pub``
(0644), for whoever verifies an exported ledger elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

# The import takes tens of milliseconds: this module is imported when something is to be signed.
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from aruntime.errors import InvalidParameter


class Signer:
    """A private key, ready to sign.

    Attributes:
        public: the public key, 64 hex digits.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw().hex()

    def sign(self, text: bytes) -> str:
        """Ed25519 signature, 128 hex digits."""
        return self._key.sign(text).hex()


def load_or_make(path: str | Path) -> Signer:
    """The signer of a key file, which is made if there is none.

    Raises:
        OSError: it cannot be read or made.
        InvalidParameter: it is no Ed25519 key.
    """
    try:
        return Signer(_private(Path(path).read_bytes(), path))
    except FileNotFoundError:
        _make(Path(path))
    return Signer(_private(Path(path).read_bytes(), path))


def public_key(path: str | Path) -> str:
    """The public key in a file, public or private, as 64 hex digits.

    Raises:
        OSError: it cannot be read.
        InvalidParameter: it is no Ed25519 key.
    """
    return public_key_in(Path(path).read_bytes(), path)


def public_key_in(text: bytes, name: str | Path) -> str:
    """The public key in a file's content; ``name`` is for the error.

    Raises:
        InvalidParameter: it is no Ed25519 key.
    """
    if b"PRIVATE KEY" in text:
        return Signer(_private(text, name)).public
    try:
        key = load_pem_public_key(text)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidParameter(f"{name} is no Ed25519 key in PEM")
    return key.public_bytes_raw().hex()


def is_signed(public: str, text: bytes, signature: str) -> bool:
    """Whether the holder of a key signed a text."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), text)
    except (InvalidSignature, ValueError):
        return False
    return True


def _private(text: bytes, name: str | Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidParameter(f"{name} is no Ed25519 private key in PEM without a password")
    return key


def _make(path: Path) -> None:
    """Write a new key, unless somebody else does at the same time."""
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if _publish(path, private, 0o600):
        _publish(Path(f"{path}.pub"), public, 0o644)


def _publish(path: Path, text: bytes, mode: int) -> bool:
    """Write a file whole and synced, only if there is none; whether it was this call's."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
            return True
        return False
    finally:
        os.unlink(temporary)
