"""A company whose tenants and tools do as usual for ten days, and then do not; and a clockwork whose time is set by hand.

As a program (`python watch_rig.py LEDGER CONFIG STEP MINUTE…`) it is a clockwork that goes round once at each of these minutes after
the company's day, and kills itself at its step number STEP (0: never)."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from bursar.domain.entry import Entry
from bursar.domain.usage import Tokens

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ledger_rows

MINUTE, HOUR, DAY = 60_000_000, 3_600_000_000, 86_400_000_000
NOW = ledger_rows.END - 12 * HOUR  # a Sunday's noon
LOOP = (0, 40)  # minutes after NOW in which acme runs in circles


def company(days: int = 10) -> list[Entry]:
    """Two tenants with a call each twenty minutes; from NOW on acme makes ten a minute, dear ones, in one conversation, calling one
    tool, and half of them fail over to another model."""
    rows: list[Entry] = []

    def add(ts: int, model: str = "gpt-5-mini", **more: object) -> None:
        rows.append(ledger_rows.entry(len(rows), ts, Tokens(input=4000, output=300), model, **more))

    for n in range(days * 72):
        ts = NOW - days * DAY + n * 20 * MINUTE + n % 7 * MINUTE
        for tenant in ("acme", "globex"):
            tools = {"evidence": '{"answered":{"lookup":1}}'} if n % 4 == 0 else {}
            add(ts, tenant=tenant, feature="support", conversation=f"{tenant}-{n // 5}", turn=n % 5, **tools)
    for minute in range(*LOOP):
        for n in range(10):
            how = {"attempt_kind": "fallback", "operation": "fallback", "try_no": 1} if n % 2 else {}
            add(NOW + minute * MINUTE + n * 1_000_000, "claude-sonnet-4-5", tenant="acme", feature="support", conversation="acme-circle",
                turn=minute, evidence='{"answered":{"lookup":1}}', **how)  # fmt: skip
    add(NOW + 5 * HOUR, tenant="globex", feature="support")
    return rows


ALARMS = """
[[alarm]]
name = "dear tenants"
metric = "cost"
per = "tenant"
learned = true
floor = "$0.50"

[[alarm]]
name = "busy tenants"
metric = "calls"
per = "tenant"
threshold = 100

[[alarm]]
name = "fallbacks"
metric = "fallback_rate"
per = "tenant"
threshold = "20%"
window = "1h"

[[alarm]]
name = "tools"
metric = "tool_calls"
learned = true
"""


def channel(url: str, name: str = "hook", more: str = "") -> str:
    return f'[channels.{name}]\nkind = "webhook"\nurl = "{url}"\nprivate = true\n{more}\n'


def main(ledger: str, config: str, step: int, minutes: list[int]) -> None:
    from bursar import drive
    from bursar.stores import alarms
    from bursar.surfaces.watch import Watch

    drive.raise_faults = True
    at = [NOW]
    count = 0

    def tell(_: str) -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    watch = Watch(ledger, config, clock_us=lambda: at[0], step=tell)
    judged = alarms.beat(watch._connection).judged
    for minute in minutes:
        if NOW + (minute + 1) * MINUTE < judged:
            continue  # time only goes on: this was before the kill
        at[0] = NOW + minute * MINUTE + 10_000_000
        watch.cycle()
    watch.close()
    print(json.dumps({"steps": count, "took": time.process_time()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), [int(text) for text in sys.argv[4:]])
