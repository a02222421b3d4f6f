"""Conversations recognised from their messages: `python bench/threads.py`. Recorded runs as interleaved requests of stateless
clients (needs BURSAR_DATA or ../shared/data), and what a call costs with 10 to 100,000 conversations alive."""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import recorded_agents  # noqa: E402
import threading_replay as replays  # noqa: E402
from bursar.domain.thread import GOOD, Ask, Heard  # noqa: E402
from bursar.rules.thread import follow, heard  # noqa: E402
from bursar.stores.threads import Threads  # noqa: E402
from bursar.wire.history import Signs  # noqa: E402
from bursar.wire.openai_history import chat_message, reply  # noqa: E402


def accuracy(data: Path) -> None:
    tau, swe, vorflux = ([replays.ready(run) for run in load(data)] for load in (recorded_agents.tau, recorded_agents.swe, recorded_agents.vorflux))
    many = (tau + swe) * 9
    print(f"{'runs, all under way at once':36} {'requests':>9} {'right':>8} {'twins':>6} {'wrong':>6} {'other tenant':>13} {'ambiguous':>10}")
    for label, talks, more in (
        ("agent-tau", tau, {}),
        ("  front dropped, 12 messages left", tau, {"trim": replays.last(12)}),
        ("  middle dropped, 8 messages left", tau, {"trim": replays.middle(8)}),
        ("agent-swe", swe, {}),
        ("  front dropped, 12 messages left", swe, {"trim": replays.last(12)}),
        ("agent-vorflux", vorflux, {}),
        ("  front dropped, 20 messages left", vorflux, {"trim": replays.last(20)}),
        ("  middle dropped, 12 messages left", vorflux, {"trim": replays.middle(12)}),
        ("the same runs in two tenants", tau + tau, {"tenants": 2}),
        ("10,000 at once, nine tenants", many[:10_000], {"tenants": 9}),
        ("1,000 with one opening", replays.opening(1000, ["Hello, I am agent #."]), {}),
        ("  and one reply to it", replays.opening(1000, ["Hello."]), {}),
    ):
        score = replays.replay(talks, Threads(), **more)
        print(
            f"{label:36} {score.requests:9,} {score.share:8.2%} {score.twins:6} {score.wrong:6} {score.across:13} {score.unsure:10}", flush=True
        )  # fmt: skip


def grow(size: int, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    words = ["order", "parcel", "monday", "customer", "note", "refund", "please", "check"]
    raws = [json.dumps({"role": "system", "content": "You look after orders."}).encode()]
    raws.append(json.dumps({"role": "user", "content": f"About order {seed}: " + " ".join(chance.choices(words, k=20))}).encode())
    for n in range(size):
        call = {"id": f"c{n}", "type": "function", "function": {"name": "lookup", "arguments": json.dumps({"order": seed, "n": n})}}
        raws.append(json.dumps({"role": "assistant", "content": None, "tool_calls": [call]}).encode())
        raws.append(json.dumps({"role": "tool", "tool_call_id": f"c{n}", "content": " ".join(chance.choices(words, k=60))}).encode())
    return raws


def said_in(raw: bytes) -> Any:
    calls = json.loads(raw).get("tool_calls", ())
    return reply("", [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in calls])


def cost(live: int, calls: int = 4000) -> tuple[float, float, float, float, float]:
    """(us of reading the messages, of following, of remembering; bytes a conversation in the index, in the reader's memory) with so
    many alive, each eight messages long when it goes on by a call and a result that nobody has seen."""
    index = Threads(bytes_max=1 << 40)
    teller = Signs().teller("openai_chat", chat_message)
    chance = random.Random(5)
    size = 0.0
    for n in range(live):
        raws = grow(3, n)
        for before in (2, 4, 6):
            told = teller.tell(raws[:before])
            counted = live <= 2000 or n < 2000
            if counted:
                tracemalloc.start()
            placed = follow(index, Ask("acme", f"call-{n}", n, told, model="m", body=n))
            heard(index, Heard(placed, GOOD, "", said_in(raws[before]), "", False, n))
            if counted:
                del placed
                gc.collect() if n % 500 == 0 else None
                size += tracemalloc.get_traced_memory()[0]
                tracemalloc.stop()
    reader = teller.openings.bytes / live
    reading, following, remembering = [], [], []
    for number in range(calls):
        n = chance.randrange(live)
        raws = grow(3, n)
        raws[-1] = raws[-1][:-2] + f' {number}"}}'.encode()
        start = time.perf_counter_ns()
        told = teller.tell(raws)
        first = time.perf_counter_ns()
        placed = follow(index, Ask("acme", "call", live, told, model="m", body=n))
        second = time.perf_counter_ns()
        said = reply("Done.", ())
        third = time.perf_counter_ns()
        heard(index, Heard(placed, GOOD, "", said, "", False, live))
        end = time.perf_counter_ns()
        reading.append(first - start)
        following.append(second - first)
        remembering.append(end - third)
    middle = [statistics.median(spent) / 1000 for spent in (reading, following, remembering)]
    return middle[0], middle[1], middle[2], size / min(live, 2000), reader


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--live", type=int, nargs="*", default=[10, 1_000, 10_000, 100_000])
    given = parser.parse_args()
    data = Path(os.environ.get("BURSAR_DATA") or ROOT.parent / "shared" / "data")
    if data.is_dir():
        accuracy(data)
    else:
        print(f"recorded runs not found at {data}; set BURSAR_DATA")
    print(f"\n{'conversations alive':>20} {'read us':>8} {'follow us':>10} {'remember us':>12} {'sum':>7} {'bytes each in the index':>24} {'in the reader':>14}")
    for live in given.live:
        read, found, kept, size, reader = cost(live)
        print(f"{live:20,} {read:8.1f} {found:10.1f} {kept:12.1f} {read + found + kept:7.1f} {size:24,.0f} {reader:14,.0f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
