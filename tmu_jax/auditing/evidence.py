"""Evidence as a file: canonical JSON, hashes, salted ids, and a signature by the user's own key.

References:
  RFC 8032 (Ed25519), RFC 2104 (HMAC), FIPS 180-4 (SHA-256).
"""

import base64
import hashlib
import hmac
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tmu_jax.data import Pool
from tmu_jax.data.demand import add_to, head
from tmu_jax.text import parse_json

SCHEMA = "tmu_jax evidence 1"
PrivateKey = Ed25519PrivateKey | pathlib.Path | str
PublicKey = Ed25519PublicKey | pathlib.Path | str


def canonical(document: Mapping[str, Any]) -> bytes:
    """JSON in the one form that is hashed and signed: keys sorted, no spaces, UTF-8.

    Raises:
      ValueError: for a number that is not finite, which JSON does not have.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def parse(content: bytes) -> dict[str, Any]:
    """A JSON object, strictly: UTF-8, no name twice, finite numbers.

    Raises:
      ValueError: for anything else, with the reason.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]!r} occurs twice")
        return dict(pairs)

    def no_number(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    document = parse_json(content.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_number)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    return document


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def data_digest(pool: Pool, num_images: int) -> str:
    """SHA-256 (hex) of the first images and labels of a pool: those of the data set, without augmented copies."""
    digest = hashlib.sha256()
    for array in (head(pool.images, num_images), pool.labels[:num_images]):
        digest.update(json.dumps([array.dtype.name, list(array.shape)]).encode() + b"\n")
        add_to(digest, array)
    return digest.hexdigest()


def salted(ids: Sequence[str], salt: str) -> list[str]:
    """HMAC-SHA-256 (hex) of each id with the salt as key: whoever has both can tell that the id is among them.

    Without the salt the ids cannot be found by trying, however few there are to try.
    """
    return [hmac.new(salt.encode("utf-8"), one.encode("utf-8"), hashlib.sha256).hexdigest() for one in ids]


def private_key(key: PrivateKey, password: bytes | None = None) -> Ed25519PrivateKey:
    """A private key, or the PEM file of one.

    Raises:
      FileNotFoundError: when the file is not there.
      ValueError: when it holds no Ed25519 key, or the password does not open it.
    """
    if isinstance(key, Ed25519PrivateKey):
        return key
    path = _file("key", key)
    try:
        found = serialization.load_pem_private_key(path.read_bytes(), password)
    except (ValueError, TypeError) as error:
        raise ValueError(f"key={path} cannot be read as a private key in PEM: {str(error).splitlines()[0]}") from None
    if not isinstance(found, Ed25519PrivateKey):
        raise ValueError(f"key={path} holds a {type(found).__name__}; an Ed25519 key is needed")
    return found


def public_key(key: PublicKey) -> str:
    """A public key (or the PEM file of one, or its 32 bytes in base64) as 32 bytes in base64.

    Raises:
      ValueError: when it is none of these.
    """
    if isinstance(key, Ed25519PublicKey):
        return _encoded(key)
    if isinstance(key, str) and not pathlib.Path(key).is_file():
        try:
            return _encoded(Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True)))
        except ValueError:
            raise ValueError(f"public_key={key!r} is neither a file nor 32 bytes in base64") from None
    path = _file("public_key", key)
    try:
        found = serialization.load_pem_public_key(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"public_key={path} cannot be read as PEM: {str(error).splitlines()[0]}") from None
    if not isinstance(found, Ed25519PublicKey):
        raise ValueError(f"public_key={path} holds a {type(found).__name__}; an Ed25519 key is needed")
    return _encoded(found)


def sign(document: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, str]:
    """The signature of a document's canonical form, with the public key."""
    return {
        "algorithm": "Ed25519",
        "public_key": _encoded(key.public_key()),
        "value": base64.b64encode(key.sign(canonical(document))).decode("ascii"),
    }


def is_signed_by(document: Mapping[str, Any], signature: Mapping[str, str]) -> bool:
    """Whether a signature is one of this document by the key that it names."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(signature["public_key"], validate=True))
        key.verify(base64.b64decode(signature["value"], validate=True), canonical(document))
    except (InvalidSignature, ValueError, KeyError, TypeError):
        return False
    return signature.get("algorithm") == "Ed25519"


def _encoded(key: Ed25519PublicKey) -> str:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64encode(raw).decode("ascii")


def _file(name: str, path: object) -> pathlib.Path:
    if not isinstance(path, str | pathlib.Path):
        raise TypeError(f"{name} must be an Ed25519 key or the path of a PEM file, got {type(path).__name__}")
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"{name}={path} is not there")
    return pathlib.Path(path)
