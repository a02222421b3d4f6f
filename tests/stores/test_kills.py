"""kill -9 in mid-write: what was acknowledged is there once, what was under way became a row."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter

from bursar.stores.check import check
from bursar.stores.writer import Ledger

from .test_faces import python

KILLS = int(os.environ.get("BURSAR_KILLS", "15"))

WRITER = """
import os, sys, threading, time
from stores.books import *
path, name = sys.argv[1], sys.argv[2]
ledger = Ledger.open(path, clock_us=lambda: time.time_ns() // 1000)
def say(word, id):
    os.write(1, f"{word} {id}\\n".encode())
def work(thread):
    n = 0
    while True:
        held = hold(f"{name}-{thread}-{n}.1", [charge("day", 3), charge(f"conversation|{name}-{thread}", 3)])
        ledger.hold(held)
        say("held", held.id)
        if n % 5 == 4:
            time.sleep(0.002)
        ledger.book(settle(held, [2, 2]))
        say("booked", held.id)
        n += 1
for t in range(8):
    threading.Thread(target=work, args=(t,), daemon=True).start()
time.sleep(60)
"""


def test_no_kill_loses_or_doubles_an_acknowledged_row_and_every_hold_leaves_a_trace(tmp_path):
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    held: set[str] = set()
    booked: set[str] = set()
    for number in range(KILLS):
        writer = python(WRITER, tmp_path, f"k{number}", stdout=subprocess.PIPE)
        assert writer.stdout is not None
        first = writer.stdout.readline()  # it is at work
        time.sleep(chance.uniform(0.0, 0.15))
        writer.kill()
        for line in [first, *writer.stdout.read().splitlines()]:
            word, _, id = line.strip().partition(" ")
            if id.endswith(".1"):  # the last line may be cut
                (held if word == "held" else booked).add(id)
        writer.wait()
    with Ledger.open(tmp_path, clock_us=lambda: time.time_ns() // 1000) as ledger:
        rows = ledger.rows()
        counters = ledger.counters()
    tell = f"seed {seed}: {len(held)} held, {len(booked)} booked, {len(rows)} rows"
    found = {row.id: row.status for row in rows}
    assert [id for id, n in Counter(row.id for row in rows).items() if n > 1] == [], tell
    assert [id for id in booked if found.get(id) != "ok"] == [], tell
    assert held - found.keys() == set(), tell
    unknown = sum(status == "unknown" for status in found.values())
    assert unknown > 0, tell
    assert (counters["day"].spent, counters["day"].held) == (2 * (len(rows) - unknown) + 3 * unknown, 0), tell
    assert check(tmp_path).findings == (), tell
