"""DuckDB in this process's memory, within bounds; what does not fit goes to a folder that is this user's alone."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import duckdb

SPILL_MAX = "8GB"
LEFT_S = 86_400  # no question takes a day
_numbers = itertools.count()


def connect(memory: str, threads: int, spill: str | None = None) -> duckdb.DuckDBPyConnection:
    """A database of its own. `spill`: the folder for what does not fit, which DuckDB makes when it is needed and removes. Its own
    choice would be a folder in whichever directory somebody stands."""
    config: dict[str, str | int] = {
        "threads": threads, "memory_limit": memory, "temp_directory": _folder() if spill is None else spill,
        "max_temp_directory_size": SPILL_MAX,
    }  # fmt: skip
    return duckdb.connect(":memory:", config=config)


def _folder() -> str:
    """One that nobody else can look into; empty where there is none to be had: then what does not fit is an error."""
    try:
        ours = Path(tempfile.gettempdir()) / f"bursar-spill-{os.getuid()}"
        ours.mkdir(mode=0o700, exist_ok=True)
        found = ours.lstat()
    except OSError:
        return ""
    if found.st_uid != os.getuid() or found.st_mode & 0o170077 != 0o040000:
        return ""  # somebody else made it first, or a link
    for left in ours.iterdir():
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - LEFT_S:
                shutil.rmtree(left)  # of a process that was killed
    return str(ours / f"{os.getpid()}-{next(_numbers)}")


__all__ = ["connect"]
