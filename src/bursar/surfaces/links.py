"""Links in messages: signed, expiring, good once. They open a page that asks; only what its button posts acts."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

import msgspec

from ..domain.incident import STOP, Order
from ..domain.policy import Watch
from ..stores import alarms, incidents
from ..stores.schema import Place, opened, transaction
from . import settings

ACTIONS = ("stop", "ack", "useful", "noise")
PATH = "/do/"  # the page: URL + PATH + action
SECRET_FILE = "links.key"


class Link(NamedTuple):
    """What a link is for. `about`: an alarm's id; for stop the labels whose calls are to go out no more. `id` is spent by its use."""

    action: str
    about: str
    expires_us: int
    id: str


class BadLink(Exception):
    """A link that must not act: `code` (forged, expired, used), and what now."""

    def __init__(self, code: str, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.code, self.reason, self.remedy = code, reason, remedy


def key(watch: Watch, folder: Path) -> bytes:
    """What links are signed with: the policy's, else one made beside the ledger at first need, readable by its owner alone."""
    if watch.secret:
        return settings.secret(watch.secret, "watch.secret").encode()
    place = Place.at(folder).file.parent / SECRET_FILE
    try:
        found = place.read_bytes()
    except FileNotFoundError:
        made = secrets.token_hex(32).encode()
        fresh = place.with_suffix(f".{os.getpid()}")
        fresh.touch(0o600)
        fresh.write_bytes(made)
        try:
            os.link(fresh, place)  # whoever comes first; the other takes that one
        except FileExistsError:
            pass
        fresh.unlink()
        found = place.read_bytes()
    return found


def make(base: str, key: bytes, action: str, about: str, expires_us: int) -> str:
    """`https://bursar.example/do/stop?about=…&until=…&sign=…`"""
    asked = {"about": about, "until": str(expires_us // 1_000_000)}
    return f"{base.rstrip('/')}{PATH}{action}?{urlencode({**asked, 'sign': _sign(key, action, **asked)})}"


def read(key: bytes, action: str, query: str, now_us: int) -> Link:
    """What a link is for, before anybody is shown it. BadLink for one that we did not make, or not for now."""
    asked = dict(parse_qsl(query, keep_blank_values=True))
    about, until, sign = asked.get("about", ""), asked.get("until", ""), asked.get("sign", "")
    if action not in ACTIONS or not hmac.compare_digest(_sign(key, action, about, until).encode(), sign.encode("utf-8", "replace")):
        raise BadLink("forged", "this link was not made here, or was changed", "open the message's own link")
    if now_us >= int(until) * 1_000_000:
        raise BadLink("expired", "this link is too old", "see `bursar alarms`")
    return Link(action, about, int(until) * 1_000_000, sign)


def labels(link: Link) -> Mapping[str, str]:
    """What a stop link would stop."""
    return msgspec.json.decode(link.about, type=dict[str, str])


def perform(ledger: str | Path, link: Link, by: str, now_us: int) -> str:
    """Do it, once: a sentence on what was done. BadLink when it was done before."""
    with opened(ledger) as connection:
        if not alarms.use_link(connection, link.id, now_us):
            raise BadLink("used", "this link was used already", "see `bursar alarms` and `bursar guard`")
        if link.action == "stop":
            match = tuple(sorted(labels(link).items()))
            with transaction(connection):
                n = incidents.give(connection, Order(0, now_us, by, STOP, match, reason="stopped from an alarm"))
            return f"stopped: order {n}; no call of {', '.join(f'{k}={v}' for k, v in match)} goes out until it is withdrawn"
        if link.action == "ack":
            return f"alarm {alarms.acknowledge(connection, link.about, by, now_us).id} is acknowledged: no more reminders"
        one = alarms.judge(connection, link.about, link.action, by, now_us)
        return f"alarm {one.id} is judged {one.judged}"


def _sign(key: bytes, action: str, about: str, until: str) -> str:
    return hmac.digest(key, f"{action}\n{about}\n{until}".encode(), hashlib.sha256).hex()[:32]
