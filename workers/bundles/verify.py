"""
Verify a dispute bundle of Sluice, offline: `python verify.py BUNDLE [KEY_ID]`.

Needs `cryptography`, and nothing of Sluice. KEY_ID is the audit key's id as you were told it
before the dispute: without it, anybody may have signed.
"""

import hashlib
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path
from tarfile import HeaderError
from typing import IO, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

LABELS = ("before", "after", "reason")


def _sha(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _read(file: IO[bytes]) -> list[tuple[str, bytes]]:  # names and contents; no byte may be free
    found: list[tuple[str, bytes]] = []
    while (head := file.read(512)) != bytes(512):
        info = tarfile.TarInfo.frombuf(head, "ascii", "strict")
        content, padding = file.read(info.size), file.read(-info.size % 512)
        plain = tarfile.TarInfo(info.name)
        plain.size = len(content)
        if plain.tobuf(tarfile.USTAR_FORMAT, "ascii") != head or padding.strip(b"\0"):
            raise HeaderError(f"{info.name!r} is not whole")
        found.append((info.name, content))
    if file.read() != bytes(512):
        raise HeaderError("its end is not whole")
    return found


def _record_hash(r: dict[str, Any]) -> str:  # the hash before, fields behind lengths, digests
    s = {name: f"{len(value)}:{value}" for name, value in r.items() if isinstance(value, str)}
    text = f"{s['chain']}{r['position']}:{s['cause']}{s['causeId']}{r['run']}:{s['tenant']}"
    text += f"{r['step']}:{s['action']}{s['actor']}{s['source']}{s['subject']}{s['feature']}"
    text += f"{r['catalogVersion']}:{r['xid']}:{s['at']}"
    digests = [b"-" if r[n] is None else b"32:" + bytes.fromhex(r[n]) for n in LABELS]
    return _sha(bytes.fromhex(r["previousHash"]), b"%d:" % len(text), text.encode(), *digests)


def _root(r: dict[str, Any], proof: dict[str, Any], said: dict[str, Any]) -> str:  # RFC 6962, 2.1.1
    place, index = f"\0{r['chain']}\0{r['position']}\0".encode(), proof["index"]
    node, path, size = _sha(place, bytes.fromhex(r["hash"])), proof["path"][:], said["records"]
    while size > 1:
        if index ^ 1 < size:
            pair = (path.pop(0), node) if index & 1 else (node, path.pop(0))
            node = _sha(b"\1", *map(bytes.fromhex, pair))
        index, size = index // 2, (size + 1) // 2
    return "" if path or index else node


def verify(path: Path, key_id: str | None = None) -> dict[str, Any]:
    """{"ok", "findings", …}: whatever is wrong with the file is a finding."""
    try:
        with path.open("rb") as file:
            return _verify(_read(file), key_id)
    except Exception as error:  # of what somebody changed, anything may be raised
        why = f"no bundle, or cut off: {error}" if isinstance(error, HeaderError) else repr(error)
        return {"ok": False, "findings": [f"it is not as it was written: {why}"]}


def _wrong(r: dict[str, Any], follows: tuple[int, str] | None) -> list[str]:
    if r["contentState"] == "hidden":  # it says nothing; the next one has its hash
        return [] if follows and follows[0] == r["position"] else ["is not where it was"]
    found = [] if _record_hash(r) == r["hash"] else ["does not have its hash"]
    if follows not in (None, (r["position"], r["previousHash"])):
        found.append("does not follow the one before it")
    for name in LABELS if r["content"] else ():
        salt, text = bytes.fromhex(r["content"]["salt"]), r["content"][name]
        made = None if text is None else _sha(salt, name.encode(), b":", text.encode())
        found += [f"does not have the {name} that it was written with"] if made != r[name] else []
    return found


def _records(held: dict[str, list[Any]], said: dict[int, Any], count: Counter[str]) -> list[str]:
    proofs = {(one["chain"], one["position"]): one for one in held["proofs"]}
    follows, behind, found = dict[str, tuple[int, str]](), Counter[str](), list[str]()
    for r in held["records"]:
        chain, is_whole = r["chain"], r["chain"].startswith("tenant:")
        wrong = _wrong(r, follows.get(chain, (1, "0" * 64)) if is_whole else None)
        proof = proofs.pop((chain, r["position"]), None)
        if proof is None:
            behind[chain] += 1
        elif _root(r, proof, said[proof["checkpoint"]]) != said[proof["checkpoint"]]["root"]:
            wrong.append("is not in the checkpoint that it is said to be in")
        elif is_whole:  # who is signed stands for all before it
            behind[chain] = 0
        found += [f"record {r['position']} of {chain} {one}" for one in wrong]
        follows[chain] = (r["position"] + 1, r["hash"])
        count.update(("records", f"contents {r['contentState']}"))
    count["records not signed yet"] = behind.total()
    return found + [f"a proof of no record: {chain} {position}" for chain, position in proofs]


def _verify(members: list[tuple[str, bytes]], key_id: str | None) -> dict[str, Any]:
    held = dict(members)
    manifest, public = json.loads(held["MANIFEST.json"]), json.loads(held["keys.json"])
    halves = [bytes.fromhex(one["publicKey"]) for one in public]
    keys = {_sha(one)[:16]: Ed25519PublicKey.from_public_bytes(one) for one in halves}
    key = manifest["key"]
    keys[key].verify(held["MANIFEST.sig"], b"sluice.bundle.1\0" + held["MANIFEST.json"])
    found = [] if key_id in (None, key) else [f"it is signed with {key}, and not with {key_id}"]
    listed = [{"name": n, "bytes": len(c), "sha256": _sha(c)} for n, c in members[:-2]]
    if listed != manifest["members"] or len(held) != len(listed) + 2:
        found.append("its members are not those that were signed, in their order")
    lines = {name.removesuffix(".ndjson"): [json.loads(one) for one in c.split(b"\n")[:-1]]
             for name, c in members if name.endswith(".ndjson")}  # fmt: skip
    said = {}
    for one in lines["checkpoints"]:
        statement, signature = one["statement"].encode(), bytes.fromhex(one["signature"])
        keys[one["key"]].verify(signature, b"sluice.checkpoint.1\0" + statement)
        said[json.loads(statement)["number"]] = json.loads(statement)
    count = Counter[str](checkpoints=len(said))
    found += _records(lines, said, count)
    for name in [name for name in held if name.endswith("/event.json")]:
        event, body = json.loads(held[name]), held.get(name.replace("event.json", "body"))
        count["bodies" if body is not None else "bodies not included"] += 1
        if body is not None and _sha(body) != event["bodySha256"]:
            found.append(f"{name}: the body is another one")
    told = {"ok": not found, "findings": found, "key": key, "counts": dict(count)}
    return told | {name: manifest[name] for name in ("tenant", "at")}


if __name__ == "__main__":
    answer = verify(Path(sys.argv[1]), *sys.argv[2:3])
    print(json.dumps(answer, indent=2))  # noqa: T201 - it is a script
    sys.exit(0 if answer["ok"] else 1)
