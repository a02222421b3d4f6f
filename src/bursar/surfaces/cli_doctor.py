"""`bursar doctor`: what a newcomer's set-up lacks, and what to do about each. Looks at everything, changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import click

from ..domain.policy import Policy
from ..stores.fault import LedgerFault
from ..stores.reader import Reader
from ..stores.schema import SQLITE_MIN, Place
from . import keys, periods, settings, wiring
from .cli_common import Common, common

PYTHON_MIN = (3, 11)
FREE_BYTES_MIN = 1 << 30  # a million rows are half a gigabyte before they are compacted
BOOK_DAYS_MAX = 45  # providers change a price about monthly
HOLD_AGE_US = 3600 * 1_000_000  # longer than any provider keeps a call open
CLOCK_SLACK_US = 300 * 1_000_000
BUILT_US = 1_760_000_000_000_000  # October 2025: no clock that is right shows less

# Where SQLite's locks or its shared memory cannot be trusted, and where files do not outlive the container.
NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afpfs",
    "webdav",
    "9p",
    "ceph",
    "glusterfs",
    "lustre",
    "beegfs",
    "afs",
    "ncpfs",
)
EPHEMERAL = ("tmpfs", "ramfs", "overlay", "aufs")

# Variables that send an SDK elsewhere than its provider's own address.
BASE_URLS = (
    "OPENAI_BASE_URL",
    "OPENAI_API_BASE",
    "ANTHROPIC_BASE_URL",
    "GOOGLE_GEMINI_BASE_URL",
    "GOOGLE_VERTEX_BASE_URL",
    "AZURE_OPENAI_ENDPOINT",
    "GROQ_BASE_URL",
    "MISTRAL_BASE_URL",
)
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy")


class Sign(NamedTuple):
    """What was looked at. `state`: ok | note | finding; only a finding makes the exit code 1."""

    about: str
    state: str
    what: str
    remedy: str = ""


class Patient(NamedTuple):
    """What the checks look at."""

    policy: Policy
    folder: Path
    env: Mapping[str, str]
    now_us: int
    online: bool


def filesystem(path: Path, mounts: str) -> tuple[str, str]:
    """(mount point, type) of the file system a path is on, from /proc/mounts or macOS `mount`; empty when not found."""
    best = ("", "")
    for row in mounts.splitlines():
        if " on " in row and " (" in row:  # macOS: /dev/disk1s1 on / (apfs, local)
            point, _, rest = row.partition(" on ")[2].rpartition(" (")
            kind = rest.rstrip(")").split(",")[0].strip()
        else:
            fields = row.split()
            if len(fields) < 3:
                continue
            point, kind = fields[1], fields[2]
            for code, char in (("\\040", " "), ("\\011", "\t"), ("\\134", "\\")):
                point = point.replace(code, char)
        if path.is_relative_to(point) and len(point) >= len(best[0]):  # the last of equal ones covers the others
            best = (point, kind)
    return best


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text("utf-8", "replace")
    except OSError:
        pass
    try:
        return subprocess.run(["mount"], capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path.resolve()


def python(patient: Patient) -> Iterator[Sign]:
    have = sys.version_info[:3]
    text = ".".join(map(str, have))
    if have < PYTHON_MIN:
        yield Sign("python", "finding", f"Python {text}", "install Python 3.11 or newer")
    else:
        yield Sign("python", "ok", f"Python {text}")


def sqlite(patient: Patient) -> Iterator[Sign]:
    import apsw

    text = apsw.sqlite_lib_version()
    if tuple(int(part) for part in text.split(".")) < SQLITE_MIN:
        yield Sign(
            "sqlite",
            "finding",
            f"apsw brings SQLite {text}, which can corrupt a file with several writers",
            "pip install -U apsw",
        )
    else:
        yield Sign("sqlite", "ok", f"SQLite {text}")


def folder(patient: Patient) -> Iterator[Sign]:
    place = Place.at(patient.folder).file.parent
    near = _existing(place)
    if not near.is_dir():
        yield Sign("ledger", "finding", f"{near} is not a folder", "name another ledger: --ledger PATH or BURSAR_LEDGER")
        return
    if not os.access(near, os.W_OK | os.X_OK):
        yield Sign(
            "ledger",
            "finding",
            f"{near} is not writable for this user",
            "change its owner or mode, or name another: --ledger PATH or BURSAR_LEDGER",
        )
    else:
        yield Sign("ledger", "ok", f"{place}" + ("" if place.exists() else " (made at the first call)"))
    point, kind = filesystem(near, _mounts())
    yield disk_kind(point, kind)
    free = shutil.disk_usage(near).free
    text = f"{free / 2**30:,.1f} GiB free at {point or near}"
    if free < FREE_BYTES_MIN:
        yield Sign("disk space", "finding", text, "free some: a full disk refuses new calls (nothing booked is lost)")
    else:
        yield Sign("disk space", "ok", text)


def disk_kind(point: str, kind: str) -> Sign:
    """Whether a ledger may lie on a file system of this type."""
    if kind in NETWORK or kind.startswith("fuse"):
        return Sign(
            "disk",
            "finding",
            f"{point} is {kind}: not a local disk, and SQLite cannot rely on its locks",
            "put the ledger on a local disk of this host; one ledger is one host's",
        )
    if kind in EPHEMERAL:
        return Sign(
            "disk",
            "finding",
            f"{point} is {kind}: what lies there is gone when the container or host restarts",
            "mount a volume and name it: --ledger PATH or BURSAR_LEDGER",
        )
    return Sign("disk", "ok", f"{point} is {kind}") if kind else Sign("disk", "note", "the kind of disk cannot be told here")


def provider_keys(patient: Patient) -> Iterator[Sign]:
    with_key: list[str] = []
    for name, table in patient.policy.providers.items():
        if table.key and table.key != "client":
            try:
                settings.secret(table.key, f"providers.{name}.key")
            except settings.BadPolicy as bad:
                yield Sign("provider keys", "finding", str(bad), "until then the gateway does not start")
                continue
            with_key.append(name)
    for name, (_, _, variable) in wiring.BUILT_IN.items():
        table = patient.policy.providers.get(name)
        if patient.env.get(variable) and (table is None or not (table.key or table.base_url)):
            with_key.append(name)
    if with_key:
        yield Sign("provider keys", "ok", f"found for {', '.join(sorted(with_key))}")
    else:
        yield Sign(
            "provider keys",
            "note",
            "none found; each caller's own key is forwarded",
            "to keep keys out of clients: export OPENAI_API_KEY=… where `bursar serve` runs",
        )


def addresses(patient: Patient) -> Iterator[Sign]:
    if not patient.online:
        return
    try:
        places = wiring.addresses(patient.policy, keys_from_environment=False)
    except settings.BadPolicy as bad:
        yield Sign("providers", "finding", str(bad), "correct it, then run this again")
        return
    found = 0
    for place in places.values():
        parts = urlsplit(place.base_url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname or "", port), timeout=5).close()
        except OSError as bad:
            yield Sign(
                "providers",
                "finding",
                f"{place.name}: {parts.hostname}:{port} cannot be reached: {bad}",
                "check network, DNS and firewall",
            )
        else:
            found += 1
    yield Sign("providers", "ok" if found else "note", f"{found} of {len(places)} can be reached")


def port(patient: Patient) -> Iterator[Sign]:
    host, number = patient.policy.server.host, patient.policy.server.port
    try:
        found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
        with socket.socket(found[0][0], socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(found[0][4])
    except OSError as bad:
        yield Sign(
            "port",
            "finding",
            f"{host}:{number} cannot be listened on: {bad.strerror}",
            "if that is a gateway of yours, all is well; else: bursar serve --port N",
        )
    else:
        yield Sign("port", "ok", f"{host}:{number} is free")


def clock(patient: Patient) -> Iterator[Sign]:
    newest = _newest(patient)
    text = periods.shown(patient.now_us) + " UTC"
    if patient.now_us < BUILT_US:
        yield Sign("clock", "finding", f"the clock says {text}", "set it (NTP): budgets' days and months hang on it")
    elif newest is not None and newest > patient.now_us + CLOCK_SLACK_US:
        yield Sign(
            "clock",
            "finding",
            f"the clock says {text}, and the ledger's newest row {periods.shown(newest)}",
            "set the clock (NTP); a demo's ledger is another matter: it plays in its own time",
        )
    else:
        yield Sign("clock", "ok", text)


def _newest(patient: Patient) -> int | None:
    """The newest row's time, microseconds UTC; None without a ledger that can be read (`holds` says why it cannot)."""
    if not Place.at(patient.folder).file.exists():
        return None
    try:
        with Reader(patient.folder, skip_damaged=True) as reader:
            reader.totals(("ts",))
            return reader.duck.execute("SELECT epoch_us(max(ts)) FROM calls").fetchall()[0][0]
    except LedgerFault:
        return None


def holds(patient: Patient) -> Iterator[Sign]:
    if not Place.at(patient.folder).file.exists():
        return
    try:
        with Reader(patient.folder) as reader:
            old = [hold.ts for hold, _ in reader.holds() if hold.ts < patient.now_us - HOLD_AGE_US]
    except LedgerFault as bad:
        yield Sign("holds", "finding", bad.reason, bad.remedy)
        return
    if old:
        yield Sign(
            "holds",
            "finding",
            f"{len(old)} older than an hour, the oldest from {periods.shown(min(old))}: money set aside by processes that ended",
            "start a gateway on this ledger: it books them at the hold",
        )
    else:
        yield Sign("holds", "ok", "none left over")


def secrets(patient: Patient) -> Iterator[Sign]:
    for name in ("pepper", "keys.json"):
        path = keys.home(patient.folder) / name
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue
        if mode & 0o077:
            yield Sign("virtual keys", "finding", f"{path} can be read by others (mode {mode:o})", f"chmod 600 {path}")
    try:
        ring = keys.KeyRing.load(patient.folder, patient.policy.key)
    except (keys.KeyFault, settings.BadPolicy) as bad:
        yield Sign("virtual keys", "finding", str(bad), "until then no virtual key works")
        return
    yield Sign("virtual keys", "ok", f"{len(ring)} known" if ring else "none; on loopback the gateway needs none")


def base_urls(patient: Patient) -> Iterator[Sign]:
    ours = f"{patient.policy.server.host}:{patient.policy.server.port}"
    here = {ours, f"localhost:{patient.policy.server.port}", f"127.0.0.1:{patient.policy.server.port}"}
    found = [(name, patient.env[name]) for name in BASE_URLS if patient.env.get(name)]
    elsewhere = [(name, value) for name, value in found if urlsplit(value).netloc.rpartition("@")[2] not in here]
    for name, value in elsewhere:
        where = urlsplit(value).netloc.rpartition("@")[2] or value[:80]
        yield Sign(
            "base URLs",
            "finding",
            f"{name} sends calls to {where}, past the gateway on {ours}",
            f"unset {name}, or point it at http://{ours} (a gateway behind it: providers.NAME.base_url)",
        )
    if found and not elsewhere:
        yield Sign("base URLs", "ok", f"{', '.join(name for name, _ in found)} point at the gateway")
    proxies = [name for name in PROXIES if patient.env.get(name)]
    if proxies:
        yield Sign(
            "proxies",
            "note",
            f"{', '.join(proxies)} set: the gateway does not follow them",
            "where providers are only reached by proxy: set providers.NAME.base_url to one",
        )


def prices(patient: Patient) -> Iterator[Sign]:
    books = sorted(keys.home(patient.folder).glob("prices-*.bin"), key=lambda p: p.stat().st_mtime_ns)
    if not books:
        yield Sign("prices", "ok", "the price book is made at the first call")
        return
    days = max(0, patient.now_us - books[-1].stat().st_mtime_ns // 1000) // 86_400_000_000
    if days > BOOK_DAYS_MAX:
        yield Sign(
            "prices", "finding", f"the price book is {days} days old", "pip install -U genai-prices, then: bursar prices update"
        )
    else:
        yield Sign("prices", "ok", f"the price book is {days} days old")


CHECKS: tuple[Callable[[Patient], Iterator[Sign]], ...] = (
    python,
    sqlite,
    folder,
    secrets,
    provider_keys,
    addresses,
    port,
    clock,
    prices,
    holds,
    base_urls,
)


def examine(config: str | None, ledger: str | None, env: Mapping[str, str], now_us: int, online: bool) -> list[Sign]:
    """Every sign there is. A policy that cannot be used is one of them; the rest is then judged by the defaults."""
    signs: list[Sign] = []
    policy = Policy()
    try:
        path = settings.find(config)
        policy, _ = settings.load(path)
        signs.append(Sign("policy", "ok", str(path) if path else "none: everything is recorded, nothing is blocked"))
    except settings.BadPolicy as bad:
        signs.append(Sign("policy", "finding", str(bad), "correct it; what follows is judged by the defaults"))
    patient = Patient(policy, wiring.ledger_folder(policy, ledger), env, now_us, online)
    for check in CHECKS:
        signs.extend(check(patient))
    return signs


@click.command()
@click.option("--config", metavar="FILE", help="the policy file (default: bursar.toml here, if there is one)")
@click.option("--online", is_flag=True, help="also try to reach each provider's address")
@common("as_json", "ledger")
def doctor(common: Common, config: str | None, online: bool) -> None:
    """Set-up problems and what to do about each. Exit code 1 when there is one."""
    from . import tables

    signs = examine(config, common.ledger, os.environ, wiring.now_us(), online)
    findings = sum(s.state == "finding" for s in signs)
    if common.json:
        tables.document([s._asdict() for s in signs], findings=findings)
    else:
        out = tables.console()
        marks = {"ok": ("ok  ", "green"), "note": ("note", "cyan"), "finding": ("FIX ", "bold red")}
        from rich.padding import Padding
        from rich.text import Text

        for sign in signs:
            mark, style = marks[sign.state]
            out.print(Text.assemble((mark, style), f"  {sign.about}: {tables.safe(sign.what)}"))
            if sign.remedy:
                out.print(Padding(Text(f"→ {tables.safe(sign.remedy)}"), (0, 0, 0, 6)))
        out.print(Text(f"{findings} to fix" if findings else "nothing to fix", style="bold"))
    click.get_current_context().exit(1 if findings else 0)
