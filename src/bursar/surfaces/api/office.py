"""The office's process: the gateway's own API, OTLP ingest and, by choice, the pages, behind a socket in the ledger's folder. It ends
with its standard input, which is the gateway."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

from ..office import OTHER, UP

BACKLOG = 256
CONCURRENT_MAX = 512
LEAVE_S = 2
NICE = 5  # a question takes every core it can get, and calls go first


def listen(path: Path) -> socket.socket | None:
    """The one listener on this path; None where somebody listens there already. Readable and writable by its owner alone."""
    here, folder = os.open(".", os.O_RDONLY), os.open(path.parent, os.O_RDONLY)
    os.fchdir(folder)  # a socket's address is short, a folder's path need not be
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # two that start at once look and listen one after the other
        if _answers(path.name):
            return None
        for other in Path(".").glob("office-*.sock"):
            if not _answers(other.name):  # its gateway was killed
                other.unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            made.bind(path.name)
        finally:
            os.umask(mask)
        made.listen(BACKLOG)
        return made
    finally:
        os.fchdir(here)
        os.close(here)
        os.close(folder)


def _answers(name: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(name)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            pass  # one that has too much to do is there too
        return True


def main(arguments: list[str]) -> int:
    """`python -m bursar.surfaces.api.office SOCKET LEDGER [CONFIG]`: the gateway's child."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gateway's to understand
    path, ledger = Path(arguments[0]), Path(arguments[1])
    config = Path(arguments[2]) if len(arguments) > 2 else None
    listener = listen(path)
    # From here on whoever connects is answered, be it after the start's second.
    os.write(1, OTHER if listener is None else UP)
    if listener is None:
        return 0
    os.nice(NICE)
    import uvicorn

    from .app import make

    made = make(ledger, config)
    server = uvicorn.Server(
        uvicorn.Config(
            made, log_level="warning", access_log=False, server_header=False, date_header=False, lifespan="off", proxy_headers=False,
            limit_concurrency=CONCURRENT_MAX, timeout_keep_alive=60, timeout_graceful_shutdown=LEAVE_S,
            h11_max_incomplete_event_size=256 << 10,
        )
    )  # fmt: skip

    def mind_parent() -> None:
        while sys.stdin.buffer.read(1):
            pass
        server.should_exit = True
        time.sleep(LEAVE_S + 1)
        os._exit(1)  # a question that takes longer is nobody's any more

    threading.Thread(target=mind_parent, daemon=True).start()
    server.run(sockets=[listener])
    made.close()
    with contextlib.suppress(OSError):
        os.unlink(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
