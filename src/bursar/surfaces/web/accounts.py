"""Who may look and who may act: accounts in a file beside the ledger, sessions in this process, and a log of what was done."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from ...domain.labels import NAME_CHARS_MAX, VALUE_CHARS_MAX
from ...stores.query import Filter
from .. import bounds

FILE, LOG = "accounts.json", "dashboard.log"
ROLES = ("viewer", "operator")
ACCOUNTS_MAX = 1_000
PASSWORD_MIN, PASSWORD_MAX = 12, 1_000  # characters
# OWASP's figures for scrypt: 32 MB and some 60 ms each.
SCRYPT = {"n": 2**15, "r": 8, "p": 1, "maxmem": 64 << 20, "dklen": 32}

IDLE_S, LIFE_S = 2 * 3600, 12 * 3600
SESSIONS_MAX = 1_000
TRIES_EACH, TRIES_ALL = 20, 200  # log-ins a minute: from one address, and together
ADDRESSES_MAX = 10_000


class AccountFault(Exception):
    """An account that cannot be made, read or meant: what happened, and what now."""

    def __init__(self, code: str, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.code, self.reason, self.remedy = code, reason, remedy


class Account(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One account as it lies in the file. `labels` bound what it sees and what it may do; none: everything."""

    name: str
    role: str
    labels: dict[str, str] = {}
    salt: str
    hash: str
    created: str  # ISO 8601, UTC

    def bound(self) -> tuple[Filter, ...]:
        return bounds.filters(self.labels)


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: int
    accounts: list[Account]


def _hash(password: str, salt: str) -> str:
    return hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), **SCRYPT).hex()  # type: ignore[call-overload]


class Accounts:
    """The accounts of one ledger. The file is read again when it changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stamp: tuple[int, int] | None = None
        self._known: dict[str, Account] = {}
        self._nobody = secrets.token_hex(16)

    def all(self) -> dict[str, Account]:
        path = self.folder / FILE
        try:
            found = path.stat()
        except FileNotFoundError:
            self._stamp, self._known = None, {}
            return self._known
        if (found.st_mtime_ns, found.st_ino) != self._stamp:
            try:
                file = msgspec.json.decode(path.read_bytes(), type=_File)
            except (OSError, msgspec.DecodeError) as bad:
                raise AccountFault(
                    "accounts_unreadable", f"{path}: {bad}", "put it back from a backup, or remove it and add accounts anew"
                ) from bad
            self._known = {account.name: account for account in file.accounts}
            self._stamp = (found.st_mtime_ns, found.st_ino)
        return self._known

    def check(self, name: str, password: str) -> Account | None:
        """The account of that name and password. Takes as long for a name that nobody has."""
        account = self.all().get(name)
        made = _hash(password[:PASSWORD_MAX], account.salt if account else self._nobody)
        return account if account is not None and hmac.compare_digest(made, account.hash) else None

    def add(self, name: str, role: str, labels: Mapping[str, str], password: str, now: str) -> Account:
        """AccountFault when it is there already or cannot be meant."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", name):
            raise AccountFault("account_name", f"{name!r} is no name for an account", "letters, digits and . _ @ -, at most 64")
        if role not in ROLES:
            raise AccountFault("account_role", f"{role!r} is no role", f"one of {', '.join(ROLES)}")
        if not PASSWORD_MIN <= len(password) <= PASSWORD_MAX:
            raise AccountFault(
                "account_password", f"a password of {len(password)} characters", f"{PASSWORD_MIN} to {PASSWORD_MAX} characters"
            )
        for label, value in labels.items():
            if not label or len(label) > NAME_CHARS_MAX or not value or len(value) > VALUE_CHARS_MAX:
                raise AccountFault("account_label", f"{label}={value!r} is no label and value", "write --label tenant=acme")
        with self._changing() as known:
            if name in known:
                raise AccountFault("account_exists", f"there is an account {name!r}", "remove it first, or choose another name")
            if len(known) >= ACCOUNTS_MAX:
                raise AccountFault("account_many", f"there are {len(known)} accounts", "remove some")
            salt = secrets.token_hex(16)
            made = Account(name=name, role=role, labels=dict(labels), salt=salt, hash=_hash(password, salt), created=now)
            known[name] = made
        return made

    def remove(self, name: str) -> None:
        with self._changing() as known:
            if known.pop(name, None) is None:
                raise AccountFault("account_unknown", f"there is no account {name!r}", "see `bursar dashboard accounts list`")

    @contextlib.contextmanager
    def _changing(self) -> Generator[dict[str, Account]]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self.folder / ".accounts.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._stamp = None
            known = dict(self.all())
            yield known
            body = msgspec.json.format(msgspec.json.encode(_File(version=1, accounts=list(known.values()))))
            fresh = self.folder / f".{FILE}.{secrets.token_hex(4)}"
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, body)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(fresh, self.folder / FILE)
            self._stamp = None
        finally:
            os.close(lock)


# -- sessions --------------------------------------------------------------------------------------------------------------


class Session:
    """Somebody who logged in. `csrf` must come with whatever changes something."""

    def __init__(self, name: str, hash: str) -> None:
        self.name, self.hash = name, hash
        self.csrf = secrets.token_urlsafe(24)
        self.began = self.seen = time.monotonic()
        self.told = ""  # said on the next page, once


class Sessions:
    """Known by a digest of their token: what lies in memory opens nothing."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, account: Account) -> tuple[str, Session]:
        token = secrets.token_urlsafe(32)
        made = Session(account.name, account.hash)
        with self._lock:
            self._known[_digest(token)] = made
            while len(self._known) > SESSIONS_MAX:
                self._known.popitem(last=False)
        return token, made

    def find(self, token: str, accounts: Mapping[str, Account]) -> tuple[Session, Account] | None:
        """None when it has run out, or the account is gone or has another password."""
        now = time.monotonic()
        with self._lock:
            found = self._known.get(_digest(token)) if token else None
            if found is None:
                return None
            account = accounts.get(found.name)
            if account is None or account.hash != found.hash or now - found.seen > IDLE_S or now - found.began > LIFE_S:
                del self._known[_digest(token)]
                return None
            found.seen = now
            self._known.move_to_end(_digest(token))
            return found, account

    def end(self, token: str) -> None:
        with self._lock:
            self._known.pop(_digest(token), None)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Throttle:
    """How many log-ins one address, and all together, may try within a minute."""

    def __init__(self) -> None:
        self._each: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._all = (float(TRIES_ALL), time.monotonic())
        self._lock = threading.Lock()

    def allows(self, address: str) -> bool:
        now = time.monotonic()
        with self._lock:
            each = _fill(self._each.get(address, (float(TRIES_EACH), now)), now, TRIES_EACH)
            together = _fill(self._all, now, TRIES_ALL)
            good = each >= 1 and together >= 1
            self._each[address] = (each - good, now)
            self._each.move_to_end(address)
            self._all = (together - good, now)
            while len(self._each) > ADDRESSES_MAX:
                self._each.popitem(last=False)
            return good


def _fill(bucket: tuple[float, float], now: float, most: int) -> float:
    return min(float(most), bucket[0] + (now - bucket[1]) * most / 60)


class Log:
    """Who did what through the pages, one JSON document a line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG

    def write(self, at: str, who: str, address: str, what: str, fields: Mapping[str, str], result: str) -> None:
        line = json.dumps(
            {"at": at, "by": who, "from": address, "did": what, **({"with": dict(fields)} if fields else {}), "result": result}
        )
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, line.encode() + b"\n")
        finally:
            os.close(handle)

    def last(self, most: int) -> Sequence[dict[str, str]]:
        try:
            lines = self.path.read_text("utf-8").splitlines()[-most:]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]


class Viewer(NamedTuple):
    """Who asks. Without accounts: nobody, who may look at everything and do nothing."""

    name: str = ""
    operator: bool = False
    bound: tuple[Filter, ...] = ()
    session: Session | None = None


NOBODY = Viewer()
