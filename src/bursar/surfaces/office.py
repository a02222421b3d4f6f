"""What lies below /bursar/ is no call: a process beside the gateway, the office, answers it. Here it is started, handed whole
requests over a socket in the ledger's folder with word of who asks, and started again when it dies. No call waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from hashlib import blake2b
from pathlib import Path

import msgspec

from ..domain.call import Headers
from ..domain.policy import Policy
from ..domain.verdict import Refusal, refuse
from ..stores.schema import Place
from . import keys
from .http_client import Origin, Pool, Timeouts, UpstreamFault, UpstreamResponse
from .http_common import end_to_end
from .http_server import Incoming as Received
from .http_server import Responder

log = logging.getLogger("bursar.office")

PREFIX = "/bursar/"
API = "/bursar/v1/"
TRACES = "/bursar/v1/traces"
FROM = b"bursar-from"  # who asks, told to the office; a client's own line of that name goes no further
IN_FLIGHT_MAX = 32
START_S = 30.0  # from the office's start until it listens
REST_MIN_S, REST_MAX_S = 1.0, 60.0  # between two starts of one that ends at once
TRIES, DYING_S = 5, 0.5
LEAVE_S = 3.0
PATH_MAX = 100  # bytes of a socket's address that every system takes
TIMEOUTS = Timeouts(connect_s=5, headers_s=300, idle_s=60, total_s=900, write_s=60)
UP, OTHER = b"up\n", b"another has it\n"  # what a new office says on its standard output


class Asker(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asks, in the gateway's own words. `key` with its `role` and the labels it binds, or nobody; `open`: this gateway takes calls
    without a key. Then what the office cannot see: the client's address, and how and by which name it came."""

    key: str = ""
    role: str = ""
    bound: dict[str, str] = {}
    open: bool = False
    address: str = ""
    scheme: str = "http"
    host: str = ""


class Down(Exception):
    """The office cannot be had. The message says why."""


class Office:
    """One gateway process's side of the office. Several workers have one office together: whoever finds none starts it."""

    def __init__(self, place: Place, config: Path | None, policy: Policy, pool: Pool) -> None:
        self.policy = policy  # in force; a reload changes it
        self._place, self._config, self._pool = place, config, pool
        folder = place.file.parent.absolute()
        self.socket = folder / name()
        self._address = ""
        self._child: asyncio.subprocess.Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self._waiter: asyncio.Task[None] | None = None
        self._rest_s, self._not_before = REST_MIN_S, 0.0
        self._why = ""
        self._useful = False  # the present one has answered something
        self._closed = False
        self.requests = self.turned_away = self.starts = self.in_flight = 0

    async def early(self) -> None:
        """Up before anybody asks: pages that somebody wants are there at once."""
        with contextlib.suppress(Down):
            await self._up()

    async def answer(self, received: Received, client: Responder, ring: keys.KeyRing, *, open_: bool) -> None:
        """One request below /bursar/."""
        asker = self._asker(received, ring, open_)
        if isinstance(asker, Refusal):
            self.turn_away(received, client, asker)
        elif self.in_flight >= IN_FLIGHT_MAX:
            self.turn_away(received, client, refuse("too_busy", f"{self.in_flight} requests are at the office", "come again", 1))
        else:
            self.in_flight += 1
            self.requests += 1
            try:
                await self._answer(received, client, asker)
            finally:
                self.in_flight -= 1

    async def _answer(self, received: Received, client: Responder, asker: Asker) -> None:
        headers = [h for h in end_to_end(received.headers) if h[0] not in keys.KEY_HEADERS and h[0] != FROM]
        headers.append((FROM, msgspec.json.encode(asker)))
        target = received.path + (f"?{received.query}" if received.query else "")
        try:
            response = await self._send(received.method, target, headers, received.body)
        except (Down, UpstreamFault) as fault:
            late = isinstance(fault, UpstreamFault) and fault.kind == "headers_timeout"
            told = f"the office gives no answer: {fault}"
            self.turn_away(received, client, refuse("office_late" if late else "office_unavailable", told, REMEDY, 5))
            return
        self._useful = True
        client.start(response.status, end_to_end(response.headers), response.content_length)
        try:
            while chunk := await response.chunk():
                client.write(chunk)
                if not client.writable:
                    await client.drain()
                if client.gone:
                    response.abandon()
                    return
        except UpstreamFault:
            client.abort()
            return
        client.end()

    async def _send(self, method: str, target: str, headers: Headers, body: bytes) -> UpstreamResponse:
        """The response's head. What an office that just died did not answer is asked once more of the next, where asking twice does no
        harm."""
        if not self._address:
            await self._up()
        origin = Origin("unix", self._address, 0)
        died = False
        for left in reversed(range(TRIES)):
            try:
                return await self._pool.send(origin, method, target, headers, body, TIMEOUTS)
            except UpstreamFault as fault:
                if fault.kind not in ("connect", "reset") or not left:
                    raise
                if fault.sent and (died or method not in ("GET", "HEAD")):
                    raise
                died = died or fault.sent
                if fault.kind == "reset" or left < TRIES - 1:
                    await asyncio.sleep(DYING_S)  # one that is being killed still takes connections for a moment
                if fault.kind == "connect":
                    await self._up()
        raise AssertionError("the last try returns or raises")

    def _asker(self, received: Received, ring: keys.KeyRing, open_: bool) -> Asker | Refusal:
        headers = received.headers
        lines = dict(headers)
        secure, address = received.tls, str(received.peer[0]) if received.peer else ""
        if self.policy.server.trusted_proxy:
            secure = secure or lines.get(b"x-forwarded-proto", b"").lower() == b"https"
            address = lines.get(b"x-forwarded-for", b"").decode("latin-1").rpartition(",")[2].strip() or address
        asker = Asker(
            open=open_, address=address, scheme="https" if secure else "http", host=lines.get(b"host", b"").decode("latin-1")
        )  # fmt: skip
        for _, token in keys.tokens(headers):
            found = ring.find(token)
            if found is None:
                return refuse("invalid_key", *keys.UNKNOWN)
            if isinstance(found, keys.Revoked):
                return refuse("key_revoked", *keys.GONE)
            return msgspec.structs.replace(asker, key=found.name, role=found.role, bound=dict(found.bound))
        if not received.path.startswith(API):
            return asker  # pages know sessions
        if not open_:
            told = "this gateway takes virtual keys only, and the request has none"
            return refuse("invalid_key", told, "send `Authorization: Bearer bsr_…`; `bursar keys create NAME --role viewer` makes one")
        return asker

    def turn_away(self, received: Received, client: Responder, refusal: Refusal) -> None:
        self.turned_away += 1
        kind, body = b"application/json", error(refusal.code, refusal.reason, refusal.remedy)
        if received.path == TRACES and dict(received.headers).get(b"content-type", b"").startswith(b"application/x-protobuf"):
            from .imports import otlp_protobuf  # an exporter reads this, and nothing else

            kind, body = b"application/x-protobuf", otlp_protobuf.status(f"{refusal.code}: {refusal.reason}; {refusal.remedy}")
        headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
        if refusal.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if refusal.retry_after_s:
            headers.append((b"retry-after", b"%d" % refusal.retry_after_s))
        client.respond(refusal.status, headers, body)

    # -- the process -----------------------------------------------------------------------------------------------------

    async def _up(self) -> None:
        """An office listens, or Down. Whoever asks meanwhile waits for the same start."""
        if self._starting is None or self._starting.done():
            self._starting = asyncio.get_running_loop().create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        if self._closed:
            raise Down("the gateway ends")
        if (left := self._not_before - time.monotonic()) > REST_MIN_S:
            raise Down(f"{self._why}; it is started again in {left:.0f} s")
        await asyncio.sleep(max(0.0, left))
        self.starts += 1
        arguments = [sys.executable, "-m", "bursar.surfaces.api.office", str(self.socket), str(self._place.file.absolute())]
        arguments += [str(self._config.absolute())] if self._config else []
        try:
            child = await asyncio.create_subprocess_exec(*arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        except OSError as bad:
            self._failed(f"it cannot be started: {bad}")
            raise Down(self._why) from bad
        assert child.stdout is not None
        try:
            said = await asyncio.wait_for(child.stdout.readline(), START_S)
        except TimeoutError:
            said = b""
            _end(child)
        if said == OTHER:  # another worker was first
            await child.wait()
        elif said == UP:
            self._child, self._useful = child, False
            self._waiter = asyncio.get_running_loop().create_task(self._wait(child))
        else:
            _end(child)
            self._failed(f"it ended with {await child.wait()} before it listened")
            raise Down(self._why)
        self._address = self._address or self._reach()

    async def _wait(self, child: asyncio.subprocess.Process) -> None:
        ended = await child.wait()
        if child.stdin is not None:
            child.stdin.close()
        if not self._closed:
            self._failed(f"it ended with {ended}")

    def _failed(self, why: str) -> None:
        """The next is started when somebody asks; after one that was of no use, the later the more often that happens."""
        self._why = why
        if self._useful:
            self._rest_s, self._not_before = REST_MIN_S, 0.0
        else:
            self._not_before = time.monotonic() + self._rest_s
            self._rest_s = min(2 * self._rest_s, REST_MAX_S)
        log.warning("the office: %s", why)

    def _reach(self) -> str:
        """The socket's address, also where its path is longer than one may be: then by a descriptor of its folder."""
        path = str(self.socket)
        if len(os.fsencode(path)) <= PATH_MAX:
            return path
        if not Path("/proc/self/fd").is_dir():
            raise Down(f"{path} is longer than a socket's address may be; put the ledger into a folder with a shorter path")
        return f"/proc/self/fd/{os.open(self.socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)}/{self.socket.name}"

    async def close(self) -> None:
        """The office ends with its standard input."""
        self._closed = True
        if self._starting is not None:
            self._starting.cancel()
        child = self._child
        if child is None or child.returncode is not None:
            return
        assert child.stdin is not None
        child.stdin.close()
        try:
            await asyncio.wait_for(child.wait(), LEAVE_S)
        except TimeoutError:
            _end(child)


REMEDY = "calls are not touched by it; the gateway's standard error says more. It is started again by itself"


def name() -> str:
    """The socket's name: one for all workers of a gateway, another for each gateway on a ledger."""
    gateway = os.getppid() if "BURSAR_WORKER" in os.environ else os.getpid()
    return f"office-{blake2b(f'{socket.gethostname()} {gateway}'.encode(), digest_size=6).hexdigest()}.sock"


def error(code: str, reason: str, remedy: str) -> bytes:
    """The one shape of a refusal below /bursar/v1/."""
    return msgspec.json.encode({"error": {"code": code, "reason": reason, "remedy": remedy}})


def _end(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.kill()
