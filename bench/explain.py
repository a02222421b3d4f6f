"""`why` and `forecast` on ten million rows: a ledger of two months made once by the real writer, and what each command takes on it.

`python -m bench.explain [ROWS] [FOLDER]` makes a ledger in FOLDER unless one is there (a new folder is removed afterwards)."""

from __future__ import annotations

import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bursar.domain.entry import Entry, Settlement
from bursar.stores.segments import compact
from bursar.stores.writer import Ledger

ROWS = 10_000_000
CHUNK = 500_000
END_US = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
DAY_US = 86_400_000_000
DAYS = 61
CLOCK_US = END_US + DAY_US
# (name, provider, femto-dollars a token: input, cache read, output)
MODELS = (
    ("gpt-5-mini-2025-08-07", "openai", 250_000_000, 25_000_000, 2_000_000_000),
    ("gpt-5-2025-08-07", "openai", 1_250_000_000, 125_000_000, 10_000_000_000),
    ("claude-haiku-4-5", "anthropic", 1_000_000_000, 100_000_000, 5_000_000_000),
    ("claude-opus-4-1", "anthropic", 15_000_000_000, 1_500_000_000, 75_000_000_000),
)
KINDS = ("primary",) * 80 + ("eval",) * 8 + ("retry",) * 4 + ("fallback",) * 2 + ("embedding",) * 3 + ("background",) * 3


def rows(count: int) -> Iterator[Settlement]:
    """Tries spread over two months, twelve to a conversation: 1,500 tenants of which a few have most, 12 features, 4 flows, four models, six
    operations, ten free labels; calls read twice as much in the second month."""
    chance = random.Random(1)
    step = DAYS * DAY_US // count
    tenant = feature = ""
    for number in range(count):
        if number % 12 == 0:
            tenant, feature = f"tenant-{int(chance.paretovariate(0.7)) % 1500}", f"feature-{chance.randrange(12)}"
        ts = END_US - DAYS * DAY_US + number * step
        late = ts >= END_US - 31 * DAY_US
        kind = KINDS[chance.randrange(100)]
        model, provider, p_in, p_read, p_out = MODELS[3 if kind == "fallback" else chance.choice((0, 0, 0, 1, 2))]
        read = chance.randrange(200, 9000) * (2 if late else 1)
        cached, out = read // 3, chance.randrange(20, 900)
        bill = (("input", read - cached, p_in), ("cache_read", cached, p_read), ("output", out, p_out))
        legs = [(unit, n, femto, n * femto // 1000) for unit, n, femto in bill]
        purpose = kind if kind in ("eval", "embedding", "background") else "primary"
        labels = {
            "team": f"team-{number % 9}", "release": f"r{number * 8 // count}", "env": ("prod", "prod", "prod", "staging")[number % 4],
            "region": f"region-{number // 12 % 5}", "plan": ("free", "pro", "enterprise")[number // 12 % 3],
            "agent": f"agent-{number // 12 % 15}", "prompt": f"prompt-v{number * 40 // count}", "experiment": "ab"[number // 12 % 2],
        } | ({"suite": f"suite-{number % 6}"} if kind == "eval" else {"corpus": f"corpus-{number % 4}"} if kind == "embedding" else {})
        history = legs[0][3] * (number % 12) // 16
        row = Entry(
            id=f"0199c0de{number:012x}.1", ts=ts, call=f"0199c0de{number:012x}", try_no=1,
            attempt_kind=kind if kind in ("retry", "fallback") else "first", operation=kind, purpose=purpose,
            cause="tool:lookup" if kind == "retry" else "5xx" if kind == "fallback" else "",
            tenant=tenant, feature=feature, flow=f"flow-{number % 12 // 3}", conversation=f"conversation-{number // 12}", turn=number % 12 + 1,
            user=f"user-{number // 12 % 20_000}", tool_depth=number % 12 // 2, key=f"key-{number // 12 % 30}", labels=json.dumps(labels),
            label_sources='{"tenant":"key","feature":"header","flow":"header"}', hold=9_000_000_000,
            provider=provider, dialect="openai_chat", model_requested=model, model_served=model, status="ok", http_status=200,
            finish="stop", ended="complete", input=read - cached, cache_read=cached, cache_write=0, cache_write_1h=0, output=out,
            reasoning=0, usage_source="provider", cost=sum(leg[3] for leg in legs), cost_input=legs[0][3], cost_cache_read=legs[1][3],
            cost_cache_write=0, cost_output=legs[2][3], cost_other=0, cost_new=legs[0][3] - history, cost_history=history + legs[1][3],
            cost_tools=0, cost_system=0, legs=json.dumps(legs), price_id=f"bench/{provider}/{model}",
            price_status="priced", latency_ms=chance.randrange(200, 4000), ttft_ms=180, overhead_us=90,
            request_hash=f"{chance.getrandbits(128):032x}", prefix_hash=f"{number // 12 % 97:032x}", policy_hash="0123456789abcdef", node="node-1",
        )  # fmt: skip
        yield Settlement(row.id, row, ())


def make(folder: Path, count: int) -> None:
    """The ledger, written and compacted as a gateway would."""
    made: list[Settlement] = []
    source = rows(count)
    for done in range(0, count, CHUNK):
        with Ledger.open(folder, clock_us=lambda: CLOCK_US) as ledger:
            for _ in range(min(CHUNK, count - done)):
                made.append(next(source))
                if len(made) == 20_480:
                    ledger.book_all(made)
                    made.clear()
            ledger.book_all(made)
            made.clear()
        compact(folder, everything=True)
        print(f"{min(done + CHUNK, count):,} of {count:,} rows", file=sys.stderr, flush=True)


def ask(folder: Path) -> list[tuple[str, float, float]]:
    """(what, wall seconds, CPU seconds), medians of three, each with opening the ledger."""
    from zoneinfo import ZoneInfo

    from bursar.domain.policy import Budget, Policy
    from bursar.stores.reader import Reader
    from bursar.surfaces import forecast, why

    policy = Policy(budget=[Budget(scope="all", limit="$90000"), Budget(scope="tenant", limit="$500")])

    def explain(reader: Reader) -> None:
        why.report(reader, why.LABELS, (), (END_US - 31 * DAY_US, END_US), (END_US - 61 * DAY_US, END_US - 31 * DAY_US))

    def look_ahead(reader: Reader) -> None:
        asker = forecast.Asker(reader, (), forecast.month_of(END_US - 11 * DAY_US), None)
        asker.month("tenant", False, 10, 1.0)
        asker.budgets(policy, ZoneInfo, 1.0, 1.0)

    def timed(act: Callable[[Reader], None]) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        with Reader(folder) as reader:
            act(reader)
        return time.perf_counter() - wall, time.process_time() - cpu

    made: list[tuple[str, float, float]] = []
    for name, act in (("why, two months", explain), ("forecast by tenant, two budgets", look_ahead)):
        runs = [timed(act) for _ in range(3)]
        made.append((name, statistics.median(wall for wall, _ in runs), statistics.median(cpu for _, cpu in runs)))
    return made


def main(arguments: list[str]) -> int:
    count = int(arguments[0]) if arguments else ROWS
    given = Path(arguments[1]) if len(arguments) > 1 else None
    folder = given or Path(tempfile.mkdtemp(prefix="bursar-bench-"))
    try:
        if not (folder / "ledger.db").exists():
            make(folder, count)
        print(f"{'':<40}{'wall s':>10}{'CPU s':>10}")
        for name, wall, cpu in ask(folder):
            print(f"{name:<40}{wall:>10.2f}{cpu:>10.2f}")
    finally:
        if given is None:
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
