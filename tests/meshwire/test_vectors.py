"""The golden vectors: what is stored is what the protocol gives, and the protocol reads what is stored."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from meshwire import ids, records, signing
from meshwire.noise import Handshake, public_of

ROOT = Path(__file__).parent.parent.parent


def stored(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((ROOT / "protocol" / "vectors" / name).read_text())
    return found


def test_the_stored_vectors_are_what_the_script_makes() -> None:
    spec = importlib.util.spec_from_file_location("vectors_script", ROOT / "scripts" / "vectors.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.differing() == []


def test_ids() -> None:
    for vector in stored("ids.json"):
        key = bytes.fromhex(vector["key"])
        assert ids.node_id(key).hex() == vector["node_id"]
        assert ids.from_text(vector["node_text"]) == ids.node_id(key)
        assert ids.mesh_id(key).hex() == vector["mesh_id"]


def test_signatures() -> None:
    for vector in stored("signing.json"):
        public, domain, kind, body, signature = (
            bytes.fromhex(vector[part]) for part in ("public", "domain", "kind", "body", "signature")
        )
        signing.verify(public, domain, kind, body, signature)


def test_records() -> None:
    for vector in stored("records.json"):
        record = records.read_record(bytes.fromhex(vector["raw"]))
        assert (record.type, record.seq, record.name) == (vector["type"], vector["seq"], vector["name"])
        assert record.owner.hex() == vector["owner"]


def test_noise_from_the_responders_side() -> None:
    for vector in stored("noise.json"):
        pattern: Any = vector["protocol"].split("_")[1]
        secret = {
            key: bytes.fromhex(vector[key])
            for key in vector
            if key.endswith(("static", "ephemeral", "logue"))
        }
        known = public_of(secret["responder_static"]) if pattern == "IK" else None
        sides = [
            Handshake(
                pattern,
                True,
                secret["prologue"],
                secret["initiator_static"],
                secret["initiator_ephemeral"],
                known,
            ),
            Handshake(
                pattern, False, secret["prologue"], secret["responder_static"], secret["responder_ephemeral"]
            ),
        ]
        messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["message"])) for m in vector["messages"]]
        for payload, message in messages[:-3]:
            assert sides[0].write(payload) == message
            assert sides[1].read(message) == payload
            sides.reverse()
        assert sides[0].hash.hex() == sides[1].hash.hex() == vector["handshake_hash"]
        receivers = [side.split()[1] for side in sides]
        for n, (payload, message) in enumerate(messages[-3:]):
            assert receivers[1 - n % 2].decrypt(message) == payload
