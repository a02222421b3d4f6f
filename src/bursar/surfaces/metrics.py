"""The /metrics page: the gateway's counters in Prometheus' text form, with bounded label sets. Loaded when first asked for."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from ..stores.writer import Ledger
from ..wire.history import Signs
from .counters import Counters
from .http_server import Server
from .office import Office
from .wiring import Memory


class _Page:
    def __init__(
        self, counters: Counters, server: Server | None, ledger: Ledger, office: Office, memory: Memory, signs: Signs
    ) -> None:
        self._counters, self._server, self._ledger, self._office = counters, server, ledger, office
        self._memory, self._signs = memory, signs

    def collect(self):
        counters = self._counters
        tries = CounterMetricFamily(
            "bursar_tries", "Tries by outcome", labels=["provider", "dialect", "operation", "status"]
        )
        for key, count in counters.by(0, 1, 2, 3, of=0).items():
            tries.add_metric(list(key), count)
        yield tries
        cost = CounterMetricFamily(
            "bursar_cost_usd",
            "Dollars booked (a float here; exact in the ledger)",
            labels=["provider", "model", "operation"],
        )
        for key, pico in counters.by(0, 4, 2, of=1).items():
            cost.add_metric(list(key), pico / 10**12)
        yield cost
        tokens = CounterMetricFamily("bursar_tokens", "Tokens booked", labels=["provider", "model", "type"])
        for kind, at in (("input", 2), ("output", 3)):
            for key, count in counters.by(0, 4, of=at).items():
                tokens.add_metric([*key, kind], count)
        yield tokens
        refused = CounterMetricFamily("bursar_refused", "Calls refused before a provider saw them", labels=["code"])
        for code, count in counters.refused.items():
            refused.add_metric([code], count)
        yield refused
        yield CounterMetricFamily("bursar_unpriced_tries", "Tries booked without a price", value=counters.unpriced)
        yield CounterMetricFamily(
            "bursar_ledger_faults", "Holds and rows the ledger could not take at once", value=counters.ledger_faults
        )
        yield CounterMetricFamily("bursar_faults", "Faults of our own, caught at the drive", value=counters.faults)
        yield CounterMetricFamily(
            "bursar_log_lines_dropped", "Log lines dropped because stderr was slow", value=counters.log_lines_dropped
        )
        yield CounterMetricFamily(
            "bursar_overhead_seconds",
            "Time from a call's arrival to its first byte sent on",
            value=counters.overhead_us / 1e6,
        )
        server = self._server
        yield GaugeMetricFamily(
            "bursar_connections", "Client connections open", value=server.connections if server else 0
        )
        yield GaugeMetricFamily("bursar_in_flight", "Calls under way", value=server.in_flight if server else 0)
        office = self._office
        yield CounterMetricFamily("bursar_office_requests", "Requests handed on to the office", value=office.requests)
        yield CounterMetricFamily("bursar_office_turned_away", "Requests that the office did not get", value=office.turned_away)
        yield CounterMetricFamily("bursar_office_starts", "Times that the office was started", value=office.starts)
        yield GaugeMetricFamily("bursar_office_in_flight", "Requests that the office is at", value=office.in_flight)
        threads = self._memory.threads
        yield GaugeMetricFamily("bursar_conversations", "Conversations remembered", value=len(threads))
        yield GaugeMetricFamily("bursar_conversation_bytes", "Bytes that they take", value=threads.bytes)
        yield CounterMetricFamily("bursar_conversations_forgotten", "Those that made room for others", value=threads.forgotten)
        yield GaugeMetricFamily("bursar_message_bytes", "Bytes of what is remembered of messages", value=self._signs.bytes)
        for name, value in self._memory.kept().items():
            yield GaugeMetricFamily(f"bursar_kept_{name}", f"Reply cache: {name.replace('_', ' ')}", value=value)
        for name, value in self._ledger.stats().items():
            yield GaugeMetricFamily(f"bursar_ledger_{name}", f"Ledger: {name.replace('_', ' ')}", value=value)


def page(counters: Counters, server: Server | None, ledger: Ledger, office: Office, memory: Memory, signs: Signs) -> bytes:
    """The page as bytes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(counters, server, ledger, office, memory, signs))  # pyright: ignore[reportArgumentType]
    return generate_latest(registry)
