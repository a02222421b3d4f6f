"""Virtual keys: made once, shown once, kept as HMACs, found by their public part. Files and comparison, no HTTP."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Generator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ..domain.call import Headers, Lines
from ..domain.labels import CHARGEABLE, FREE_LABELS_MAX, NAME_CHARS_MAX, OPERATIONS, VALUE_CHARS_MAX
from ..domain.policy import Key
from ..stores.schema import Place
from .settings import BadPolicy

PREFIX = b"bsr_"
# bsr_<12 hex digits, public>_<64 hex digits, 256 random bits>. Hex: a double click selects the whole of it.
SHAPE = re.compile(rb"bsr_([0-9a-f]{12})_[0-9a-f]{64}")
HASH_SHAPE = re.compile(r"([0-9a-f]{12}):([0-9a-f]{64})")
KEYS_MAX = 10_000
FILE_BYTES_MAX = 16 << 20  # ten thousand keys with sixteen labels of full length, with room
MODELS_MAX = 100
ROLES = ("", "viewer", "operator")
UNKNOWN = "this virtual key is not known here", "make one with `bursar keys create NAME`"
GONE = "this virtual key was revoked", "make a new one with `bursar keys create NAME`"


class KeyFault(Exception):
    """Keys that cannot be read, written or meant: `code`, what happened, and what now."""

    def __init__(self, code: str, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.code, self.reason, self.remedy = code, reason, remedy


class Owner(NamedTuple):
    """Whom a virtual key speaks for. `bound` labels cannot be overruled by a client; empty `models`: every model. `role`: what it may
    do below /bursar/v1/, empty: send spans and no more."""

    name: str
    bound: Mapping[str, str]
    models: tuple[str, ...]
    role: str = ""


KEY_HEADERS = frozenset((b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key", b"x-bursar-key"))


def tokens(headers: Headers) -> list[tuple[tuple[bytes, bytes], bytes]]:
    """The lines that hold a virtual key, each with that key; remembered with the head."""
    made = headers.made if isinstance(headers, Lines) else {}
    found = made.get("keys")
    if found is None:
        found = made["keys"] = []
        for header in headers:
            name, value = header
            token = value[7:] if name == b"authorization" and value[:7].lower() == b"bearer " else value
            if name in KEY_HEADERS and token.startswith(PREFIX):
                found.append((header, token))
    return found


class Revoked:
    """The answer for a key that once was good."""


REVOKED: Final = Revoked()


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key as it lies in keys.json: nothing here opens anything."""

    id: str
    name: str
    hash: str  # id:HMAC-SHA-256 of the whole token under the folder's pepper, hex
    created: str  # ISO 8601, UTC
    tenant: str = ""
    labels: dict[str, str] = {}
    models: list[str] = []
    revoked: str = ""  # ISO 8601, UTC; empty: in force
    role: str = ""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    keys: list[Record]


class KeyRing:
    """The keys that one ledger's gateways know. Looking one up costs one HMAC whether or not it exists."""

    def __init__(self, folder: Path, declared: Sequence[Key]) -> None:
        self._folder = home(folder)
        self._declared = tuple(declared)
        self._seen: tuple[int, int, int] | None = None
        self._pepper = b""
        self._known: dict[bytes, tuple[bytes, Owner | Revoked]] = {}
        self._decoy = secrets.token_bytes(32)
        self.fault = ""  # why the last change could not be taken over; the keys read before it stay in force

    @classmethod
    def load(cls, folder: str | os.PathLike[str], policy_keys: Sequence[Key] = ()) -> KeyRing:
        """The ring of a ledger folder and of the policy's `[[key]]` lines. KeyFault or BadPolicy when unusable."""
        ring = cls(Path(folder), policy_keys)
        ring._seen = ring._stamp()
        ring._read()
        return ring

    def __len__(self) -> int:
        """Keys known, revoked ones too: a gateway whose last key was revoked is closed, not open to everyone."""
        return len(self._known)

    def find(self, token: bytes) -> Owner | Revoked | None:
        """Whose key this is, REVOKED, or None. The work done does not depend on whether the public part is known."""
        shape = SHAPE.fullmatch(token)
        if shape is None:
            return None
        given = hmac.digest(self._pepper, token, "sha256")
        stored, owner = self._known.get(shape[1], (self._decoy, None))
        return owner if hmac.compare_digest(given, stored) else None

    def refresh_if_changed(self) -> bool:
        """Read the files again when they changed; one stat when they did not. True when taken over.

        A file that became unreadable, or vanished, changes nothing but `fault`: forgetting every key would close the
        gateway to its users, or open a keyless one to everybody."""
        now = self._stamp()
        if now == self._seen:
            return False
        self._seen = now
        if now is None:
            self.fault = f"{self._folder / 'keys.json'} vanished; the {len(self._known)} keys read from it stay in force"
            return False
        try:
            self._read()
        except (KeyFault, BadPolicy) as bad:
            self.fault = str(bad)
            return False
        self.fault = ""
        return True

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._folder / "keys.json")
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> None:
        records = _records(self._folder)
        known: dict[bytes, tuple[bytes, Owner | Revoked]] = {}
        for key in self._declared:
            shape = HASH_SHAPE.fullmatch(key.hash)
            if shape is None:
                raise BadPolicy(f"[[key]] {key.name!r}: hash is not one; write it as `bursar keys create` printed it (id:hex)")
            owner = Owner(key.name, _bound(key.tenant, key.labels), tuple(key.models), key.role)
            known[shape[1].encode()] = (bytes.fromhex(shape[2]), owner)
        for record in records:
            shape = HASH_SHAPE.fullmatch(record.hash)
            if shape is None or shape[1] != record.id:
                raise KeyFault(
                    "bad_keys_file",
                    f"{self._folder / 'keys.json'}: key {record.name!r} has no usable hash",
                    "restore the file from a backup, or revoke that key and create another",
                )
            owner = Owner(record.name, _bound(record.tenant, record.labels), tuple(record.models), record.role)
            known[record.id.encode()] = (bytes.fromhex(shape[2]), REVOKED if record.revoked else owner)
        if known:
            self._pepper = _pepper(self._folder)
        self._known = known


def home(ledger: str | os.PathLike[str]) -> Path:
    """Where a ledger's keys lie: in its folder, or beside its file."""
    return Place.at(Path(ledger)).file.parent


def create(
    folder: str | os.PathLike[str], name: str, *, tenant: str = "", labels: Mapping[str, str] | None = None,
    models: Sequence[str] = (), role: str = "", declared: Sequence[Key] = (), now_us: int,
) -> tuple[str, Record]:  # fmt: skip
    """(the token, which nobody will see again, and its record). KeyFault when the name is taken or a label is unfit."""
    folder, labels = home(folder), dict(labels or {})
    _fit(name, tenant, labels, models)
    if role not in ROLES:
        raise KeyFault("bad_role", f"{role[:40]!r} is no role", "use viewer or operator, or none")
    with _locked(folder):
        records = _records(folder)
        if any(r.name == name for r in records) or any(k.name == name for k in declared):
            raise KeyFault(
                "name_taken",
                f"there is, or was, a key named {name!r}, and rows in the ledger carry that name",
                "take another name (for a rotation: the same with a number)",
            )
        if len(records) >= KEYS_MAX:
            raise KeyFault("too_many_keys", f"{folder / 'keys.json'} has {len(records)} keys, as many as it may", "reuse keys")
        pepper = _pepper(folder, make=not records)
        public = secrets.token_hex(6)
        token = f"bsr_{public}_{secrets.token_hex(32)}"
        record = Record(
            id=public, name=name, hash=f"{public}:{hmac.new(pepper, token.encode(), hashlib.sha256).hexdigest()}",
            created=_iso(now_us), tenant=tenant, labels=labels, models=list(models), role=role,
        )  # fmt: skip
        _write(folder, [*records, record])
    return token, record


def listed(folder: str | os.PathLike[str]) -> list[Record]:
    """The keys made here, oldest first."""
    return _records(home(folder))


def revoke(folder: str | os.PathLike[str], name: str, *, declared: Sequence[Key] = (), now_us: int) -> Record:
    """The record of the key that is good no more; gateways stop taking it within a second. KeyFault when none is."""
    folder = home(folder)
    with _locked(folder):
        records = _records(folder)
        found = next((r for r in records if r.name == name), None)
        if found is None:
            if any(k.name == name for k in declared):
                raise KeyFault("declared_key", f"{name!r} is declared in the policy file", "remove its [[key]] lines there")
            known = ", ".join(repr(r.name) for r in records if not r.revoked) or "none"
            raise KeyFault("no_such_key", f"no key is named {name!r}; in force: {known[:400]}", "see `bursar keys list`")
        if found.revoked:
            raise KeyFault("already_revoked", f"{name!r} was revoked at {found.revoked}", "nothing is to be done")
        gone = msgspec.structs.replace(found, revoked=_iso(now_us))
        _write(folder, [gone if r is found else r for r in records])
    return gone


def _bound(tenant: str, labels: Mapping[str, str]) -> dict[str, str]:
    return {**labels, **({"tenant": tenant} if tenant else {})}


def _fit(name: str, tenant: str, labels: Mapping[str, str], models: Sequence[str]) -> None:
    """Bound labels are compared and summed for ever: unlike a stranger's, they are refused rather than cleaned."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", name):
        raise KeyFault(
            "bad_name",
            f"{name!r} is not a key name",
            "use up to 64 letters, digits, . _ @ and -, a letter or digit first",
        )
    if tenant and "tenant" in labels:
        raise KeyFault("bad_label", "the tenant is given twice", "give --tenant or --label tenant=…, not both")
    for label, value in {**labels, **({"tenant": tenant} if tenant else {})}.items():
        if (
            not label
            or len(label) > NAME_CHARS_MAX
            or not label.isprintable()
            or not value
            or len(value) > VALUE_CHARS_MAX
            or not value.isprintable()
        ):
            raise KeyFault(
                "bad_label",
                f"label {label[:80]!r} = {value[:80]!r} cannot be bound",
                f"names up to {NAME_CHARS_MAX}, values up to {VALUE_CHARS_MAX} printable characters",
            )
    if "operation" in labels and labels["operation"] not in OPERATIONS:
        raise KeyFault("bad_label", f"operation {labels['operation']!r} is not one", f"use one of {', '.join(OPERATIONS)}")
    if len([label for label in labels if label not in CHARGEABLE]) > FREE_LABELS_MAX:
        raise KeyFault("bad_label", f"{len(labels)} labels", f"bind at most {FREE_LABELS_MAX} free ones")
    if len(models) > MODELS_MAX or not all(m and len(m) <= VALUE_CHARS_MAX and m.isprintable() for m in models):
        raise KeyFault("bad_model", "the models are not usable", f"give at most {MODELS_MAX} printable names")


def _records(folder: Path) -> list[Record]:
    path = folder / "keys.json"
    remedy = "restore the file from a backup; no key of it works until then"
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        return []
    except OSError as bad:
        raise KeyFault("keys_unreadable", f"{path} cannot be read: {bad.strerror}", "make it readable to this user") from None
    if len(raw) > FILE_BYTES_MAX:
        raise KeyFault("bad_keys_file", f"{path} is larger than {FILE_BYTES_MAX} bytes", remedy)
    try:
        stored = msgspec.json.decode(raw, type=_File)
    except (msgspec.DecodeError, UnicodeDecodeError) as bad:
        raise KeyFault("bad_keys_file", f"{path}: {bad}", remedy) from None
    if stored.version != 1:
        raise KeyFault("bad_keys_file", f"{path} has version {stored.version}, this Bursar writes 1", "update Bursar")
    return stored.keys


def _pepper(folder: Path, make: bool = False) -> bytes:
    """The secret that turns tokens into hashes; whoever has only keys.json cannot try guesses without it."""
    path = folder / "pepper"
    if make and not path.exists():
        _put(path, secrets.token_bytes(32))
    try:
        found = path.read_bytes()
    except OSError as bad:
        raise KeyFault("no_pepper", f"{path} cannot be read: {bad.strerror}; no key can be checked without it",
                       "restore it from a backup (for keys made elsewhere: that ledger's), or remove keys.json and "
                       "create the keys anew") from None  # fmt: skip
    if len(found) < 32:
        raise KeyFault("no_pepper", f"{path} has {len(found)} bytes where 32 are needed", "restore it from a backup")
    return found


def _write(folder: Path, records: list[Record]) -> None:
    body = msgspec.json.format(msgspec.json.encode(_File(version=1, keys=records)), indent=2) + b"\n"
    _put(folder / "keys.json", body)


def _put(path: Path, body: bytes) -> None:
    """Whole or not at all, and nobody else's to read, at any moment."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        number = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(number, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(number)
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        parent = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except OSError as bad:
        raise KeyFault(
            "keys_unwritable",
            f"{path} cannot be written: {bad.strerror}",
            "make the ledger folder writable to this user, with room on the disk",
        ) from None


@contextlib.contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Two commands at once must not lose one another's key."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        number = os.open(folder / "keys.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as bad:
        raise KeyFault(
            "keys_unwritable",
            f"{folder} cannot be written: {bad.strerror}",
            "name the right ledger (--ledger), or make it writable to this user",
        ) from None
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _iso(now_us: int) -> str:
    return datetime.fromtimestamp(now_us // 1_000_000, UTC).isoformat().replace("+00:00", "Z")
