"""The fast player is no other world: its rows are a gateway's rows, and its ledgers foot to the provider's invoice."""

from __future__ import annotations

import http.client
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bursar.stores.check import check
from bursar.stores.query import Query
from bursar.stores.reader import Reader
from bursar.stores.writer import Ledger
from bursar.surfaces import gateway, settings
from bursar.testing import variants
from bursar.testing.answering import Answering
from bursar.testing.causes import ClientFallback, FlakyTool, GatewayFallback, PriceChange, Reasks, Repairs, SdkRetries
from bursar.testing.planned import Planned
from bursar.testing.player import Batched, Player, desk, simulate
from bursar.testing.provider import Provider
from bursar.testing.scenario import Planted, Scenario, base
from bursar.testing.talk import ANTHROPIC, CHAT, GEMINI, RESPONSES
from bursar.testing.traffic import calls

PRICES = "bursar-test-prices"


@pytest.fixture(scope="session")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the compiled price book, so that it is compiled once."""
    return tmp_path_factory.mktemp(PRICES)


@pytest.mark.parametrize("seed", range(4))
def test_a_played_companys_ledger_foots_to_the_invoice_row_by_row(seed: int, tmp_path: Path, prices: Path) -> None:
    """Every line of the bill has its row at the same dollars, unless the row itself says that it is an estimate; and the ledger's
    own proofs find nothing."""
    scene = variants.variant(seed, scale=0.12, weeks=3)
    made = simulate(calls(scene), tmp_path / "ledger", policy=scene.policy(), changes=scene.changes, prices=prices)
    assert made.truth.unplanned == [] and made.truth.unserved == [] and made.truth.total == made.invoice.total() > 0
    with Reader(tmp_path / "ledger") as reader:
        rows = {(r["call"], r["try"]): r for r in reader.query(Query(("cost",), ("call", "try", "price_status", "tenant", "feature")))}
    assert rows.keys() == {(row.fact.ref, row.try_no) for row in made.truth.rows}
    for billed in made.truth.rows:
        row = rows[billed.fact.ref, billed.try_no]
        assert row["cost"] == billed.dollars or row["price_status"] == "estimated", billed.fact.ref
        if scene.labels != "none":
            assert (row["tenant"], row["feature"]) == (billed.fact.tenant, billed.fact.feature)
    assert check(tmp_path / "ledger", lambda: scene.at(scene.days)).findings == ()


def test_the_file_gets_the_counters_that_the_calls_were_held_against(tmp_path: Path, prices: Path) -> None:
    """Rows reach it in batches; what each took from which budget reaches it with them."""
    scene = variants.variant(2, labels="full", scale=0.1, weeks=2)
    with Ledger.open(tmp_path / "ledger", clock_us=lambda: 0) as file:
        books = Batched(file)
        player = Player(desk(scene.policy(), prices), books, Answering(keep=0))
        for call in calls(scene):
            player.play(call)
        books.flush()
        assert file.counters().keys() == books.memory.counters().keys() != set()
        for name, standing in file.counters().items():
            assert (standing.spent, standing.held) == (books.memory.counters()[name].spent, 0) != (0, 0)


def test_a_price_that_changes_changes_in_the_bill_and_in_the_books_at_once(tmp_path: Path, prices: Path) -> None:
    """By an override in the policy, which is the operator's word for it."""
    agent = base(1).agent("support")
    scene = Scenario(1, base(1), (Planted(PriceChange(agent.model, "2.5"), 7),), scale=0.1, weeks=2)
    made = simulate(calls(scene), tmp_path / "ledger", policy=scene.policy(), changes=scene.changes, prices=prices)
    with Reader(tmp_path / "ledger") as reader:
        days = {r["period"]: r["cost"] for r in reader.query(Query(("cost",), grain="day"))}
    assert days == made.invoice.by_day()
    flat = simulate(calls(scene.without(scene.planted[0].cause.name)), tmp_path / "flat", policy="", prices=prices)
    assert made.invoice.total() > flat.invoice.total()


COMPARED = (
    "attempt_kind", "operation", "purpose", "cause", "tenant", "feature", "flow", "user", "conversation", "turn", "tool_depth", "labels",
    "label_sources", "provider", "dialect", "model_requested", "model_served", "service_tier", "status", "http_status", "error", "finish",
    "stream", "ended", "input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning", "other_units", "usage_source",
    "cost", "cost_input", "cost_cache_read", "cost_cache_write", "cost_output", "cost_other", "cost_new", "cost_history", "cost_tools",
    "cost_system", "legs", "price_id", "price_status", "hold",
    "request_hash", "prefix_hash", "response_id", "flags", "source",
)  # fmt: skip


def troubled() -> Scenario:
    """A company in which everything that two sockets can show goes wrong, in all dialects."""
    company = base(3)
    for feature, dialect, model in (
        ("support", ANTHROPIC, "claude-haiku-4-5"), ("orders", GEMINI, "gemini-2.5-flash"), ("research", CHAT, "gpt-5-mini"),
        ("assistant", RESPONSES, "gpt-5"),
    ):  # fmt: skip
        company = company.with_agent(feature, dialect=dialect, model=model)
    causes = (
        GatewayFallback("support", "claude-opus-4-1", 0.3), FlakyTool("support", "lookup_order", "flag", 0.4),
        ClientFallback("orders", "error", "gpt-5", CHAT, 0.3), Repairs("orders", 0.2), SdkRetries("research", 0.2, False),
        Reasks("assistant", "cut", 0.3),
    )  # fmt: skip
    return Scenario(3, company, tuple(Planted(cause, 0) for cause in causes), weeks=1, scale=0.5)


def test_the_players_rows_are_those_of_a_gateway_with_sockets(tmp_path: Path, prices: Path) -> None:
    """The same calls, one after another, through `bursar serve` and a provider on loopback: every column but ids, moments and
    durations is the same, and so is the bill."""
    scene = troubled()
    planned = list(calls(scene))[:260]
    played = simulate(planned, tmp_path / "played", policy=scene.policy(), prices=prices)
    bill = through_sockets(planned, scene, tmp_path / "served")
    assert [(line.ref, line.model, line.used, line.dollars, line.why) for line in bill] == [
        (line.ref, line.model, line.used, line.dollars, line.why) for line in played.invoice.lines
    ]
    theirs, ours = rows_of(tmp_path / "served"), rows_of(tmp_path / "played")
    assert len(theirs) == len(ours) >= len(planned)
    for their, our in zip(theirs, ours, strict=True):
        different = {name: (their[name], our[name]) for name in COMPARED if their[name] != our[name]}
        # A row charged at its hold differs with the hold, which differs with what was learnt by then of bytes per token.
        assert different.keys() <= {"hold"}, (our["id"], different)
    met = {(r["attempt_kind"], r["status"], r["ended"]) for r in ours}
    assert {("first", "ok", "complete"), ("fallback", "ok", "complete"), ("first", "error", "failed")} <= met and len(met) > 4


def through_sockets(planned: list[Planned], scene: Scenario, folder: Path) -> list[Any]:
    now = 0

    def clock() -> int:
        return now

    with Provider(clock=clock, changes=scene.changes) as provider:
        places = "".join(f'\n[providers.{n}]\nbase_url = "{provider.url}"\nkey = "sk"\n' for n in ("openai", "anthropic", "gemini"))
        policy = settings.parse(scene.policy() + places, "test")
        served = gateway.serve_in_thread(ledger=folder, policy=policy, clock_us=clock)
        try:
            address = urlsplit(served.url)
            for call in planned:
                now = call.ts_us
                connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
                connection.request("POST", call.path, call.body.encode(), {**call.headers(), "content-type": "application/json"})
                try:
                    connection.getresponse().read()
                except http.client.IncompleteRead:
                    assert call.say.fault == "cut"
                connection.close()
        finally:
            served.stop()
        return list(provider.invoice.lines)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    with Ledger.open(folder, clock_us=lambda: 0) as ledger:
        return [row._asdict() for row in sorted(ledger.rows(), key=lambda row: (row.ts, row.try_no))]


def test_a_fault_of_our_own_is_not_swallowed(prices: Path) -> None:
    """In a simulation a bug must stop the run, not become an answer."""

    class Broken:
        def hold(self, hold: object) -> None:
            raise ZeroDivisionError

    player = Player(desk("", prices), Broken(), Answering(keep=0))  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        player.play(next(calls(variants.variant(0))))


def test_a_bill_without_a_price_has_no_truth(tmp_path: Path, prices: Path) -> None:
    """Unknown is not zero there either."""
    from bursar.testing.invoice import Buckets, Line
    from bursar.testing.truth import Truth

    with pytest.raises(LookupError, match="claude-unheard-of"):
        Truth([], [Line(1, 0, "claude-unheard-of", Buckets(1), None, "served")])
    stranger = Truth([], [Line(1, 0, "gpt-5", Buckets(1), Decimal("0.5"), "served", "x")])
    assert stranger.total == Decimal("0.5") and len(stranger.unplanned) == 1
