"""Fire drills that were held: reports kept in the ledger's file, signed by a secret beside it. Who asks is told only what the
signature covers: columns that somebody changed count for nothing."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from .schema import Place, opened

SECRET_FILE = "drill.key"
LOOKED_AT = 200  # newest ones, when the last that passed is asked for


class Kept(NamedTuple):
    """A drill as the ledger has it. `good`: report, time, policy and outcome are those that were signed; else it did not pass."""

    ts: int
    policy: str
    passed: bool
    good: bool
    report: str
    signature: str


def _secret(folder: Path, make: bool) -> bytes:
    """What signs a ledger's drills, readable by its owner alone; empty where there is none and none is to be made."""
    path = folder / SECRET_FILE
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    if not make:
        return b""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(os.urandom(32))
    return path.read_bytes()


def _sign(secret: bytes, report: str) -> str:
    return hashlib.blake2b(report.encode(), key=secret, digest_size=32).hexdigest()


def keep(path: str | Path, report: str) -> str:
    """Sign a report (canonical JSON with `ts`, `policy` and `passed`) and keep it; its signature. LedgerFault when it cannot be."""
    place = Place.at(path)
    signed = _sign(_secret(place.file.parent, True), report)
    said: dict[str, Any] = msgspec.json.decode(report)
    with opened(path) as connection:
        connection.execute(
            "INSERT INTO drills (ts, policy, passed, report, signature) VALUES (?,?,?,?,?)",
            (said["ts"], said["policy"], int(said["passed"]), report, signed),
        )
    return signed


def newest(connection: apsw.Connection, most: int = 1) -> list[Kept]:
    """The last ones that were held, newest first."""
    secret = _secret(Path(connection.filename).parent, False)
    rows = connection.execute("SELECT ts, policy, passed, report, signature FROM drills ORDER BY n DESC LIMIT ?", (most,)).fetchall()
    return [_read(secret, *row) for row in rows]


def last_passed(connection: apsw.Connection) -> int | None:
    """When a drill passed last, microseconds since the epoch."""
    return next((one.ts for one in newest(connection, LOOKED_AT) if one.passed), None)


def _read(secret: bytes, ts: int, policy: str, passed: int, report: str, signature: str) -> Kept:
    good = bool(secret) and hmac.compare_digest(_sign(secret, report), signature)
    if good:
        said: dict[str, Any] = msgspec.json.decode(report)
        good = (said.get("ts"), said.get("policy"), said.get("passed")) == (ts, policy, bool(passed))
    return Kept(ts, policy, good and bool(passed), good, report, signature)
