"""Who holds the open holds: a process with a lease. How it is told from one that is dead, and from one with its old number."""

from __future__ import annotations

import itertools
import os
import platform
import socket
import time
from pathlib import Path
from typing import NamedTuple

LEASE_US = 30_000_000  # a process that hangs this long is given up; its late rows become corrections
RENEW_US = 5_000_000

_numbers = itertools.count(1)


def ticks_us() -> int:
    """Microseconds of the monotonic clock: the same for every process of one boot, and no wall-clock step moves it."""
    return time.monotonic_ns() // 1000


class Owner(NamedTuple):
    """One opened ledger in one process. `where` is host and process namespace: a pid means nothing outside of it."""

    id: str
    where: str
    boot: str
    pid: int
    start: str  # the process's start time as the kernel tells it, empty where it does not
    mode: str
    node: str

    @classmethod
    def here(cls, mode: str, node: str) -> Owner:
        pid, start = os.getpid(), _start(os.getpid())
        boot = _boot()
        number = next(_numbers)  # a process may open a ledger again: the earlier opening is then dead though the pid lives
        return cls(f"{boot[:8]}-{pid}-{start}-{number}-{time.monotonic_ns():x}", _where(), boot, pid, start, mode, node)

    def gone(self, other: Owner, lease_until: int, now: int) -> bool:
        """Whether `other` is dead, seen from this process at `now` ticks."""
        if other.boot != self.boot:
            return True
        # A lease further away than any lease can be was taken before a reboot that the boot id did not show.
        if lease_until < now or lease_until > now + 2 * LEASE_US:
            return True
        return other.where == self.where and not _alive(other.pid, other.start)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _where() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {platform.system()} {namespace}".strip()


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the command name, which may itself hold spaces and brackets."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _start(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def _alive(pid: int, start: str) -> bool:
    fields = _stat(pid)
    if len(fields) > 19:
        return fields[0] not in "ZX" and (not start or fields[19] == start)  # a zombie will settle nothing any more
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
