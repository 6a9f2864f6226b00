"""The signature of a bundle, made by OpenSSF's `model-signing` 1.x and checked with `cryptography` alone.

`model.sig` is a Sigstore bundle in JSON. It holds a DSSE envelope (github.com/secure-systems-lab/dsse, version 1)
around an in-toto statement that lists every file with its SHA-256, signed with ECDSA. A test of the project checks that
this module and the library agree. This module is stricter in one respect: the file must be byte for byte as the library
writes it.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rsd_edge.errors import EdgeError

PinnedKeys = Mapping[str, ec.EllipticCurvePublicKey]
"""Public keys by the digest by which `model-signing` names them."""
NAME = "model.sig"
MAX_BYTES = 1 << 22
_TYPE = b"application/vnd.in-toto+json"
# Matches the whole file, so that nothing of it is parsed before the signature is verified.
_FORMAT = re.compile(
    rb'\{"mediaType":"application/vnd\.dev\.sigstore\.bundle\.v0\.3\+json",'
    rb'"verificationMaterial":\{"publicKey":\{"hint":"([0-9a-f]{64})"\},"tlogEntries":\[\]\},'
    rb'"dsseEnvelope":\{"payload":"((?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)",'
    rb'"payloadType":"application/vnd\.in-toto\+json",'
    rb'"signatures":\[\{"sig":"((?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)","keyid":""\}\]\}\}'
)
_HASHES = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}


def pinned_keys(paths: Sequence[Path]) -> PinnedKeys:
    """The pinned public keys in PEM files; EdgeError if there are not one or two, or a file holds no key."""
    if not 1 <= len(paths) <= 2:
        raise EdgeError(f"expected one or two pinned public keys, found {len(paths)}; change the keys folder")
    return dict(map(public_key, paths))


def signed_files(signature: bytes, pinned: PinnedKeys) -> tuple[str, dict[str, str]]:
    """Digest of the pinned key that signed, and the files that the content of `model.sig` lists with their SHA-256.

    The files themselves are not read.

    Raises:
        EdgeError: the signature is damaged, by another key, or does not list files as `model-signing` does.
    """
    match = _FORMAT.fullmatch(signature)
    payload, value = (base64.b64decode(match[part]) for part in (2, 3)) if match else (b"", b"")
    if not match or (base64.b64encode(payload), base64.b64encode(value)) != (match[2], match[3]):
        raise EdgeError(f"expected a signature as model-signing writes it, found {NAME} damaged; copy it again")
    hint = match[1].decode()
    if hint not in pinned:
        raise EdgeError(
            f"expected a signature of one of the {len(pinned)} pinned keys, found that of another key ({hint[:12]}); "
            "pin its public key if you trust it"
        )
    key = pinned[hint]
    try:
        message = b"DSSEv1 %d %s %d %s" % (len(_TYPE), _TYPE, len(payload), payload)
        key.verify(value, message, ec.ECDSA(_HASHES[key.curve.name]))
    except InvalidSignature:
        raise EdgeError(f"expected a valid signature of the bundle, found {NAME} changed; copy it again") from None
    return hint, _listed(payload)


def public_key(path: Path) -> tuple[str, ec.EllipticCurvePublicKey]:
    """The key of a PEM file, and the digest by which `model-signing` names it; EdgeError if the file holds none."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise EdgeError(f"expected a public key in {path}, found: {error}; pin the .pub file of a key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise EdgeError(f"expected an ECDSA key on a NIST curve in {path}, found another kind; run `rsd sign key`")
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest(), key


def _listed(payload: bytes) -> dict[str, str]:
    """The files of a statement whose signature was verified."""
    try:
        statement = json.loads(payload)
        predicate, (subject,) = statement["predicate"], statement["subject"]
        resources, how = predicate["resources"], predicate["serialization"]
        kinds = (statement["_type"], statement["predicateType"], how["method"], how["hash_type"])
        files: dict[str, str] = {resource["name"]: resource["digest"] for resource in resources}
        digest = hashlib.sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources)).hexdigest()
        if (
            kinds != ("https://in-toto.io/Statement/v1", "https://model_signing/signature/v1.0", "files", "sha256")
            or how["allow_symlinks"] is not False
            or how["ignore_paths"] != [NAME]  # nothing else in the folder may go unsigned
            or any(resource["algorithm"] != "sha256" or type(resource["name"]) is not str for resource in resources)
            or len(files) != len(resources)
            or subject["digest"] != {"sha256": digest}
        ):
            raise ValueError
    except (ValueError, LookupError, TypeError):
        raise EdgeError(
            "expected a signature over the SHA-256 of every file, found another kind; sign with `rsd sign bundle`"
        ) from None
    return files
