"""Who made a bundle: the signature of OpenSSF's `model-signing` 1.x, checked with `cryptography` alone.

`model.sig` is a Sigstore bundle in JSON. It holds a DSSE envelope (github.com/secure-systems-lab/dsse, version 1)
around an in-toto statement that lists every file with its SHA-256, signed with ECDSA. A test of the project holds this
file and the library to the same verdicts. Stricter than the library in one respect: the file must be spelt exactly as
the library writes it, so that no byte of it can be changed.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from rsd_edge.errors import EdgeError

NAME = "model.sig"
MAX_BYTES = 1 << 22
_TYPE = "application/vnd.in-toto+json"
# The whole file: nothing of it is parsed before the signature holds.
_SPELT = re.compile(
    rb'\{"mediaType":"application/vnd\.dev\.sigstore\.bundle\.v0\.3\+json",'
    rb'"verificationMaterial":\{"publicKey":\{"hint":"([0-9a-f]{64})"\},"tlogEntries":\[\]\},'
    rb'"dsseEnvelope":\{"payload":"((?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)",'
    rb'"payloadType":"application/vnd\.in-toto\+json",'
    rb'"signatures":\[\{"sig":"((?:[A-Za-z0-9+/]{4})+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)","keyid":""\}\]\}\}'
)
_HASHES = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}


def signed_files(signature: bytes, keys: Iterable[Path]) -> dict[str, str]:
    """The files that a signature speaks for, relative path -> hex SHA-256. The files themselves are not looked at.

    Args:
        signature: content of `model.sig`.
        keys: PEM files of the pinned public keys; one of them must have signed.

    Raises:
        EdgeError: it is damaged, of another key, or does not list files as `model-signing` does.
    """
    pinned = dict(public_key(path) for path in keys)
    found = _SPELT.fullmatch(signature)
    payload, value = (base64.b64decode(found[part]) for part in (2, 3)) if found else (b"", b"")
    if not found or (base64.b64encode(payload), base64.b64encode(value)) != (found[2], found[3]):
        raise EdgeError(f"expected a signature as model-signing writes it, found {NAME} damaged; copy it again")
    hint = found[1].decode()
    if hint not in pinned:
        raise EdgeError(
            f"expected a signature of one of the {len(pinned)} pinned keys, found that of another key ({hint[:12]}); "
            "pin its public key if you trust it"
        )
    key = pinned[hint]
    try:
        key.verify(value, b"DSSEv1 %d %s %d %s" % (len(_TYPE), _TYPE.encode(), len(payload), payload), _hash(key))
    except InvalidSignature:
        raise EdgeError(
            f"expected a valid signature of the bundle, found {NAME} changed; copy the bundle again"
        ) from None
    return _listed(payload)


def _hash(key: ec.EllipticCurvePublicKey) -> ec.ECDSA:
    return ec.ECDSA(_HASHES[key.curve.name])


def public_key(path: Path) -> tuple[str, ec.EllipticCurvePublicKey]:
    """What `model-signing` names the key of a PEM file by, and the key; EdgeError if the file holds none."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise EdgeError(f"expected a public key in {path}, found: {error}; pin the .pub file of a key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _HASHES:
        raise EdgeError(
            f"expected an ECDSA key on a NIST curve in {path}, found another kind; make one with `rsd sign key`"
        )
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest(), key


def _listed(payload: bytes) -> dict[str, str]:
    """The files of a statement whose signature holds."""
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
            "expected a signature over every file by its SHA-256, found another kind; sign it with `rsd sign bundle`"
        ) from None
    return files
