"""`bursar serve`: the HTTP edge. Who asks, which desk judges, health and counters; the call itself is in exchange.py."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import ipaddress
import json
import logging
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import uuid_utils

from .. import drive, wire
from ..desk import Caller
from ..domain.call import Headers, Incoming
from ..domain.policy import Policy
from ..domain.shape import replace
from ..domain.verdict import Refusal, refuse
from ..pipeline import way
from ..stores.writer import LedgerFault
from . import keys, settings, wiring
from .counters import Counters
from .exchange import Door, Edge, Exchange
from .http_client import Pool
from .http_server import Incoming as Received
from .http_server import Responder, Server, ServerLimits
from .office import PREFIX, Office
from .try_log import TryLog

log = logging.getLogger("bursar.gateway")

WATCH_FIRST_S = 3.0  # the gateway's own start comes first
WATCH_REST_MAX_S = 60.0
START_S = 10.0  # a worker that cannot start says so within that
UNUSABLE = 2  # the exit code of what only the operator can mend


class CannotListen(Exception):
    """The address cannot be had: another process has it, or it is not this machine's."""

    code = "cannot_listen"

    def __init__(self, host: str, port: int, bad: OSError) -> None:
        why = os.strerror(bad.errno) if bad.errno else str(bad)
        super().__init__(f"{host}:{port} cannot be listened on: {why}; end what has it, or take another (--port, or [server] port)")


class Gateway:
    """One process's gateway: a shop, a pool, a key ring, and the desk in force."""

    def __init__(self, shop: wiring.Shop, *, require_keys: bool, log_tries: bool = True) -> None:
        self.shop = shop
        self.desk = shop.desk
        self.doors = {name: Door(a) for name, a in shop.addresses.items()}
        self.ring = keys.KeyRing.load(shop.folder, shop.policy.key)
        self.require_keys = require_keys
        self.pool = Pool()
        self.office = Office(shop.ledger.place, shop.policy_path, shop.policy, self.pool)
        self.counters = Counters()
        self.ready = True
        self.clock_us = shop.clock_us
        self.started = time.monotonic()
        self.server: Server | None = None
        self._log = TryLog(self.counters) if log_tries else None
        self.streams: set[Exchange] = set()  # under way
        self._edge: Edge | None = None  # while it listens

    def _handle(self, received: Received, client: Responder) -> None:
        """One request. Everything that is not health, metrics or a mistake is a call."""
        server = self.server
        assert server is not None
        path = received.path
        if path in OWN:
            OWN[path](self, client)
            server.done(client)
            return
        if path.startswith(PREFIX):
            self._hand_on(received, client)
            return
        headers: Headers = received.headers
        query = received.query
        if "key=" in query:
            query, headers = _key_from_query(query, headers)
        # Also while no keys exist: a virtual key must not go on to a provider as if it were the provider's own.
        allowed = self._who(headers)
        if isinstance(allowed, Refusal):
            _turn_away(received, client, allowed)
            server.done(client)
            return
        caller, headers = allowed
        edge = self._edge
        assert edge is not None
        id = uuid_utils.uuid7().hex
        call = Incoming(id, self.clock_us(), received.method, path, query, headers, received.body)
        exchange = Exchange(way(call, caller, self.desk), edge, client, id)
        client.on_stop = exchange.stop
        exchange.go()

    def _hand_on(self, received: Received, client: Responder) -> None:
        """What is no call of a model: the gateway's own API and pages, which the office answers."""
        server = self.server
        assert server is not None
        task = server.loop.create_task(self.office.answer(received, client, self.ring, open_=not self.require_keys))
        client.on_stop = task.cancel
        task.add_done_callback(partial(server.handled, client))

    def _fault(self, received: Received, client: Responder, bug: BaseException, call_id: str = "") -> None:
        self.counters.faults += 1
        if client.started:
            client.abort()
        elif not client.gone:
            what = f"call {call_id}: a fault of Bursar's own ({type(bug).__name__})"
            _turn_away(received, client, refuse("internal_fault", what, "report it with this id; the log has the details"))
        if self.server is not None:
            self.server.done(client)

    def _who(self, headers: Headers) -> tuple[Caller, Headers] | Refusal:
        """The virtual key's owner, and the headers without that key: it is ours and goes to no provider."""
        for line, token in keys.tokens(headers):
            found = self.ring.find(token)
            if found is None:
                return refuse("invalid_key", *keys.UNKNOWN)
            if found is keys.REVOKED:
                return refuse("key_revoked", *keys.GONE)
            return Caller(found.name, found.bound, found.models), [h for h in headers if h is not line]
        if not self.require_keys:
            return ANYONE, headers
        return refuse(
            "invalid_key",
            "this gateway takes virtual keys only, and the request has none",
            "send it as the SDK's api_key, or in x-bursar-key beside the provider's own",
        )

    # -- the edges of a call -------------------------------------------------------------------------------------------

    async def _write_lines(self, log: TryLog) -> None:
        while True:
            await asyncio.sleep(0.25)
            log.flush()

    async def _watch_files(self) -> None:
        """Revoked keys, and calls that somebody ordered to stop, stop within a second on every worker."""
        while True:
            await asyncio.sleep(0.5)
            self.ring.refresh_if_changed()
            if self.shop.watch.look(self.desk):
                for exchange in list(self.streams):
                    exchange.obey()

    async def _watch(self) -> None:
        """The clockwork (compaction, expiry, alarms) in a process of its own: DuckDB is not loaded here, and no channel that hangs
        is ours to wait for. It ends with its input; one that dies is started again."""
        arguments = [sys.executable, "-m", "bursar.surfaces.watch", str(self.shop.ledger.place.file)]
        arguments += [str(self.shop.policy_path)] if self.shop.policy_path else []
        pause = WATCH_FIRST_S
        while True:
            await asyncio.sleep(pause)
            child = await asyncio.create_subprocess_exec(*arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            try:
                ended = await child.wait()
            finally:
                if child.stdin is not None:
                    child.stdin.close()
            pause = min(2 * pause, WATCH_REST_MAX_S)
            log.warning("the clockwork ended with %s; it is started again in %g s", ended, pause)

    def reload(self) -> str:
        """Read the policy again; a bad one leaves the last good one in force. Returns what happened, in a sentence."""
        try:
            policy, policy_hash = settings.load(self.shop.policy_path)
            places = wiring.addresses(policy, keys_from_environment=True)
            book = wiring.PriceBook.load(wiring.price_sync.ensure_book(self.shop.folder), policy.price)
            wiring.reachable(policy, self.shop.policy_path, book, places, self.shop.folder)
            desk = wiring.desk_of(policy, policy_hash, places, book, self.desk.node)
        except settings.BadPolicy as bad:
            return f"policy not reloaded, the last good one ({self.desk.policy_hash}) stays: {bad}"
        self.doors = {name: Door(a) for name, a in places.items()}
        if self._edge is not None:
            self._edge = dataclasses.replace(self._edge, doors=self.doors)  # calls under way go on to where they began
        self.ring = keys.KeyRing.load(self.shop.folder, policy.key)
        # The orders stay the same object: a stream that began under the old desk must hear of the next one too.
        self.desk = replace(desk, orders=self.desk.orders)
        self.shop.watch.look(self.desk)
        self.office.policy = policy
        self.shop.memory.reloaded(policy)
        return f"policy {policy_hash} in force"

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None, reuse_port: bool = False) -> int:
        """Listen; returns the port."""
        wire.load()
        server = self.shop.policy.server
        limits = ServerLimits(body_bytes=server.body_max, connections=server.connections_max)
        handle = partial(drive.guarded, self._handle, on_fault=self._fault)
        self.server = Server(handle, limits, on_error_reply=_framing_error)
        self._edge = Edge(
            self.shop.ledger, self.pool, self.doors, self.shop.memory, self.counters, self._log, asyncio.get_running_loop(),
            self.streams, self.server.done, self._fault,
        )  # fmt: skip
        await self.server.listen(host, port, ssl=tls, reuse_port=reuse_port)
        self._tasks = [asyncio.create_task(self._watch_files())]
        if self._log is not None:
            self._tasks.append(asyncio.create_task(self._write_lines(self._log)))
        policy = self.shop.policy
        wanted = policy.watch.every_s > 0 and (policy.ledger.compact_every_s > 0 or policy.alarm or policy.guard.handoff)
        if policy.server.dashboard and os.environ.get("BURSAR_WORKER", "0") == "0":
            self._tasks.append(asyncio.create_task(self.office.early()))
        if wanted and os.environ.get("BURSAR_WORKER", "0") == "0":  # one for all workers
            self._tasks.append(asyncio.create_task(self._watch()))
        return self.server.port

    async def stop(self, grace_s: float) -> None:
        """Not ready, stop accepting, streams finish, rows land."""
        self.ready = False
        assert self.server is not None
        await self.server.shutdown(grace_s)
        for task in self._tasks:
            task.cancel()
        await self.office.close()
        await self.pool.close()
        await asyncio.get_running_loop().run_in_executor(None, self.shop.ledger.close)
        self.shop.memory.close()
        if self._log is not None:
            self._log.flush()


ANYONE = Caller()


def _key_from_query(query: str, headers: Headers) -> tuple[str, Headers]:
    """Gemini's `?key=`: moved into its header, so that no URL of ours carries a secret."""
    kept, found = [], ""
    for part in query.split("&"):
        if part.startswith("key="):
            found = part[4:]
        else:
            kept.append(part)
    if not found:
        return query, headers
    return "&".join(kept), [*headers, (b"x-goog-api-key", found.encode("ascii", "replace"))]


def _turn_away(received: Received, client: Responder, refusal: Refusal) -> None:
    dialect = wire.resolve(received.method, received.path).dialect
    headers, body = dialect.refuse(refusal)
    client.respond(refusal.status, [*headers, (b"x-bursar-verdict", b"refused:" + refusal.code.encode())], body)


def _framing_error(status: int, code: str, message: str) -> tuple[Headers, bytes]:
    body = json.dumps(
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    ).encode()
    return [(b"content-type", b"application/json"), (b"x-should-retry", b"false")], body


def _health(gateway: Gateway, client: Responder) -> None:
    body = msgspec.json.encode(
        {"status": "ok", "uptime_s": int(time.monotonic() - gateway.started), "pid": os.getpid()}
    )
    client.respond(200, [(b"content-type", b"application/json")], body)


def _ready(gateway: Gateway, client: Responder) -> None:
    """The same predicate as admission: would a call be taken now?"""
    fault = gateway.shop.ledger.fault()
    ready = gateway.ready and fault is None
    body = msgspec.json.encode({"ready": ready, "reason": "" if ready else (str(fault) if fault else "shutting down")})
    client.respond(200 if ready else 503, [(b"content-type", b"application/json")], body)


def _metrics(gateway: Gateway, client: Responder) -> None:
    from .metrics import page

    body = page(gateway.counters, gateway.server, gateway.shop.ledger, gateway.office, gateway.shop.memory, gateway.desk.signs)
    client.respond(200, [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")], body)


def _to_pages(_: Gateway, client: Responder) -> None:
    client.respond(308, [(b"location", PREFIX.encode())], b"")


OWN: dict[str, Callable[[Gateway, Responder], None]] = {
    "/healthz": _health, "/readyz": _ready, "/metrics": _metrics, PREFIX.rstrip("/"): _to_pages,
}  # fmt: skip


# -- starting ----------------------------------------------------------------------------------------------------------


def unsafe(policy: Policy, host: str, has_keys: bool) -> str:
    """Why this must not be started: empty when it may be. Anyone who can reach an open gateway spends the operator's money."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if loopback:
        return ""
    if not has_keys:
        return f"{host} can be reached from other machines and there are no keys; make one: bursar keys create NAME"
    if not (policy.server.tls_cert and policy.server.tls_key) and not policy.server.trusted_proxy:
        return (
            f"{host} can be reached from other machines without TLS; set server.tls_cert and server.tls_key, or "
            "server.trusted_proxy = true when a proxy in front terminates it"
        )
    return ""


def tls_context(policy: Policy) -> ssl.SSLContext | None:
    """The gateway's own certificate, when it has one."""
    if not policy.server.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(policy.server.tls_cert, policy.server.tls_key or None)
    return context


def serve(
    config: str | None = None,
    ledger: str | None = None,
    host: str | None = None,
    port: int | None = None,
    workers: int = 1,
) -> int:
    """Run until SIGTERM or SIGINT; the exit code. BadPolicy and LedgerFault are the caller's to print."""
    path = settings.find(config)
    policy, _ = settings.load(path)
    host = host or policy.server.host
    port = policy.server.port if port is None else port
    folder = wiring.ledger_folder(policy, ledger)
    has_keys = bool(keys.KeyRing.load(keys.home(folder), policy.key))
    reason = unsafe(policy, host, has_keys)
    if reason:
        raise settings.BadPolicy(reason)
    worker = os.environ.get("BURSAR_WORKER")
    if workers > 1 and worker is None:
        return _supervise(workers, config, ledger, host, port)
    import uvloop

    shop = wiring.open_shop(config, ledger, mode="gateway")
    gateway = Gateway(shop, require_keys=has_keys)
    return uvloop.run(_serve(gateway, host, port, tls_context(policy), worker is not None))


async def _serve(gateway: Gateway, host: str, port: int, tls: ssl.SSLContext | None, reuse_port: bool) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: log.warning("%s", gateway.reload()))
    try:
        bound = await gateway.start(host, port, tls=tls, reuse_port=reuse_port)
    except OSError as bad:
        gateway.shop.ledger.close()
        raise CannotListen(host, port, bad) from None
    # What start-up made lives as long as the process: no collection need ever look at it again.
    gc.collect()
    gc.freeze()
    # A call leaves no cycles, only much that is under way at once: looked through every 700 objects, it costs 5% of a core.
    gc.set_threshold(10_000, 20, 50)
    scheme = "https" if tls else "http"
    print(
        f"bursar: serving on {scheme}://{host}:{bound} · ledger {gateway.shop.folder} · policy "
        f"{gateway.shop.policy_path or 'none (everything recorded, nothing blocked)'}",
        file=sys.stderr,
        flush=True,
    )
    await stop.wait()
    await gateway.stop(gateway.shop.policy.server.drain_s)
    return 0


def _supervise(workers: int, config: str | None, ledger: str | None, host: str, port: int) -> int:
    """Keep N workers on one port; a dead one is replaced, with a pause so that a broken start does not spin."""
    arguments = [sys.executable, "-m", "bursar", "serve", "--host", host, "--port", str(port)]
    arguments += ["--config", config] if config else []
    arguments += ["--ledger", ledger] if ledger else []
    stopping = threading.Event()
    children: dict[int, subprocess.Popen[bytes]] = {}

    def spawn(number: int) -> None:
        children[number] = subprocess.Popen(arguments, env={**os.environ, "BURSAR_WORKER": str(number)})

    def tell(number: int, _frame: object) -> None:
        if number != signal.SIGHUP:
            stopping.set()
        for child in children.values():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, tell)
    for number in range(workers):
        spawn(number)
    settled = time.monotonic() + START_S
    while not stopping.wait(0.5):
        for number, child in list(children.items()):
            if child.poll() is not None:
                if child.returncode == UNUSABLE and time.monotonic() < settled:
                    tell(signal.SIGTERM, None)  # it has said why, and the next would say the same
                    break
                print(
                    f"bursar: worker {number} ended with {child.returncode}; starting another",
                    file=sys.stderr,
                    flush=True,
                )
                stopping.wait(1.0)
                if not stopping.is_set():
                    spawn(number)
    return max(child.wait() for child in children.values())


class Handle:
    """A gateway in a thread of this process: for `bursar run`, the demo and tests."""

    def __init__(self, gateway: Gateway, loop: asyncio.AbstractEventLoop, thread: threading.Thread, port: int) -> None:
        self.gateway, self._loop, self._thread = gateway, loop, thread
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def stop(self, grace_s: float = 10.0) -> None:
        """Streams finish, rows land, the thread ends."""
        asyncio.run_coroutine_threadsafe(self.gateway.stop(grace_s), self._loop).result(grace_s + 10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)


def serve_in_thread(
    config: str | None = None,
    ledger: str | os.PathLike[str] | None = None,
    port: int = 0,
    *,
    policy: Policy | None = None,
    clock_us: Callable[[], int] = wiring.now_us,
    log_tries: bool = False,
) -> Handle:
    """A gateway on loopback, ready when this returns. LedgerFault and BadPolicy come out here."""
    import uvloop

    shop = wiring.open_shop(config, ledger, mode="gateway", policy=policy, clock_us=clock_us)
    gateway = Gateway(shop, require_keys=False, log_tries=log_tries)
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="bursar-gateway", daemon=True)
    thread.start()
    bound = asyncio.run_coroutine_threadsafe(gateway.start("127.0.0.1", port), loop).result(10)
    return Handle(gateway, loop, thread, bound)


__all__ = ["Counters", "Gateway", "Handle", "LedgerFault", "Path", "serve", "serve_in_thread", "unsafe"]
