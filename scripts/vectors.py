#!/usr/bin/env python3
"""Writes protocol/vectors/*.json, what any other implementation must agree with; `--check` only compares.

Everything is made from fixed seeds, so the files change only when the protocol does.
"""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "protocol"))

from meshwire import ids, noise, records, signing  # noqa: E402 - importable only from here on

FOLDER = ROOT / "protocol" / "vectors"


def seed(number: int) -> bytes:
    """A recognisable 32-byte seed."""
    return bytes([number]) * 32


def id_vectors() -> list[dict[str, Any]]:
    keys = [signing.Signer(seed(n)).public for n in range(3)]
    return [
        {
            "key": key.hex(),
            "node_id": ids.node_id(key).hex(),
            "node_text": ids.to_text(ids.node_id(key)),
            "mesh_id": ids.mesh_id(key).hex(),
            "mesh_text": ids.to_text(ids.mesh_id(key)),
        }
        for key in keys
    ]


def signing_vectors() -> list[dict[str, Any]]:
    signer = signing.Signer(seed(1))
    cases: list[tuple[bytes, int | bytes, bytes]] = [
        (signing.DOMAIN_RECORD, 1, b""),
        (signing.DOMAIN_RECORD, 255, b"body"),
        (signing.DOMAIN_STATIC, b"", bytes(32)),
        (b"", b"kind", b"body"),
        (signing.DOMAIN_ACCUSE, bytes(range(16)), bytes(range(20)) + (5).to_bytes(8, "big")),
    ]
    return [
        {
            "seed": signer.seed.hex(),
            "public": signer.public.hex(),
            "domain": domain.hex(),
            "kind": (bytes([kind]) if isinstance(kind, int) else kind).hex(),
            "body": body.hex(),
            "signed": signing.signed_bytes(domain, kind, body).hex(),
            "signature": signer.sign(domain, kind, body).hex(),
        }
        for domain, kind, body in cases
    ]


GROWN: list[tuple[records.RecordType, dict[int, Any]]] = [
    (records.RecordType.VITALS, {9: 1_700_000_000_000, 66: 7, 67: seed(7)}),  # the head of an audit log
    (records.RecordType.CERTIFICATE, {0: "n", 1: b"serial--", 64: True, 65: [seed(8)]}),  # an endorsement
]
"""Fields that came later, under keys that older readers pass over."""


def record_vectors() -> list[dict[str, Any]]:
    signer = signing.Signer(seed(2))
    payloads: list[dict[int, Any]] = [
        {},
        {0: "smollm2:135m", 1: 1, 2: b"\x00\xff", 3: 2.5, 4: [1, [], {1: True}], 5: None},
        {1: -1, 2: 2**63, 64: "from a newer version", 100: {3: "x"}},
    ]
    made = [
        records.make_record(
            signer,
            kind,
            seq=1_700_000_000_000 + n,
            issued_ms=1_700_000_000_000,
            ttl_ms=60_000,
            payload=payload,
        )
        for n, (kind, payload) in enumerate([*zip(records.RecordType, payloads, strict=False), *GROWN])
    ]
    return [
        {
            "seed": signer.seed.hex(),
            "type": int(record.type),
            "seq": record.seq,
            "issued_ms": record.issued_ms,
            "ttl_ms": record.ttl_ms,
            "name": record.name,
            "owner": record.owner.hex(),
            "raw": record.raw.hex(),
        }
        for record in made
    ]


def noise_vectors() -> list[dict[str, Any]]:
    return [noise_vector("XX"), noise_vector("IK")]


def noise_vector(pattern: noise.Pattern) -> dict[str, Any]:
    """One handshake and three sealed messages, going to and fro."""
    prologue = b"meshnode vectors"
    known = noise.public_of(seed(13)) if pattern == "IK" else None
    sides = [
        noise.Handshake(pattern, True, prologue, seed(11), seed(12), known),
        noise.Handshake(pattern, False, prologue, seed(13), seed(14)),
    ]
    initiator = sides[0]
    messages: list[dict[str, str]] = []
    while not initiator.finished:
        payload = f"message {len(messages) + 1}".encode()
        sent = sides[0].write(payload)
        sides[1].read(sent)
        messages.append({"payload": payload.hex(), "message": sent.hex()})
        sides.reverse()
    ciphers = [side.split()[0] for side in sides]
    for n in range(3):
        payload = f"sealed {n}".encode()
        messages.append({"payload": payload.hex(), "message": ciphers[n % 2].encrypt(payload).hex()})
    return {
        "protocol": f"Noise_{pattern}_25519_ChaChaPoly_SHA256",
        "prologue": prologue.hex(),
        "initiator_static": seed(11).hex(),
        "initiator_ephemeral": seed(12).hex(),
        "responder_static": seed(13).hex(),
        "responder_ephemeral": seed(14).hex(),
        "handshake_hash": initiator.hash.hex(),
        "messages": messages,
    }


def vectors() -> dict[str, str]:
    """Every file's name and text."""
    made = {
        "ids.json": id_vectors(),
        "signing.json": signing_vectors(),
        "records.json": record_vectors(),
        "noise.json": noise_vectors(),
    }
    return {name: json.dumps(content, indent=2) + "\n" for name, content in made.items()}


def differing() -> list[str]:
    """The names of the files that are not what this protocol gives."""
    found = []
    for name, text in vectors().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            found.append(name)
    return found


def main() -> int:
    if "--check" in sys.argv[1:]:
        wrong = differing()
        print("\n".join(f"differs: {name}" for name in wrong) or "all vectors agree")
        return 1 if wrong else 0
    FOLDER.mkdir(exist_ok=True)
    for name, text in vectors().items():
        (FOLDER / name).write_text(text)
        print(f"wrote {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
