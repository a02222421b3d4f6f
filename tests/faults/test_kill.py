"""kill -9 and SIGTERM at any moment: nothing acknowledged is lost or doubled, no provider call is without a trace."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter

from bursar.stores.reader import Reader

from .rig import GatewayProcess, Provider, ask

KILLS = int(os.environ.get("BURSAR_KILLS", "20"))
CALLERS = 16


def rows_of(gateway):
    with Reader(gateway.ledger) as reader:
        return reader.sql("select feature, status, id from calls")


def test_kill_9_under_sixteen_callers_loses_nothing_and_doubles_nothing(tmp_path):
    """Random moments, streamed and not. The truth is what the provider served and what clients got whole."""
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    acknowledged: list[str] = []

    async def caller(gateway, number, stop):
        count = 0
        while not stop.is_set():
            count += 1
            test_id = f"k{gateway.round}-{number}-{count}"
            try:
                whole, _, _ = await ask(gateway.port, test_id, chance.random() < 0.5)
            except OSError:
                return
            if whole:
                acknowledged.append(test_id)

    async def main():
        provider = Provider(delay_s=0.002)
        await provider.start()
        gateway = GatewayProcess(tmp_path, provider.url)
        for number in range(KILLS):
            gateway.round = number
            await asyncio.to_thread(gateway.start)
            stop = asyncio.Event()
            callers = [asyncio.create_task(caller(gateway, n, stop)) for n in range(CALLERS)]
            await asyncio.sleep(chance.uniform(0.02, 0.3))
            gateway.kill()
            stop.set()
            await asyncio.gather(*callers)
        gateway.round = KILLS
        await asyncio.to_thread(gateway.start)  # recovers what the last one left
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(gateway.terminate) == 0
        await provider.stop()
        return provider, gateway

    provider, gateway = asyncio.run(main())
    rows = rows_of(gateway)
    by_test = Counter(row["feature"] for row in rows)
    tell = f"seed {seed}: {len(acknowledged)} acknowledged, {len(provider.served)} served, {len(rows)} rows"
    assert len({row["id"] for row in rows}) == len(rows), tell
    assert not [t for t in acknowledged if by_test[t] == 0], f"acknowledged but not in the ledger; {tell}"
    assert not [t for t, n in by_test.items() if n > 1], f"doubled; {tell}"
    assert not [t for t in provider.served if by_test[t] == 0], f"served without a trace; {tell}"
    settled = {row["feature"] for row in rows if row["status"] == "ok"}
    assert set(acknowledged) <= settled, f"an acknowledged call must be settled, not unknown; {tell}"
    assert any(row["status"] == "unknown" for row in rows) or len(acknowledged) == len(rows), tell
    print(tell, Counter(row["status"] for row in rows))


def test_sigterm_lets_fifty_streams_finish(tmp_path):
    """Fifty streams under way, each about a second long: all complete, all rows land, exit 0."""

    async def main():
        provider = Provider(stream_events=20, event_gap_s=0.05)
        await provider.start()
        gateway = GatewayProcess(tmp_path, provider.url)
        await asyncio.to_thread(gateway.start)
        calls = [asyncio.create_task(ask(gateway.port, f"s{n}", True)) for n in range(50)]
        while len(provider.served) < 50:
            await asyncio.sleep(0.01)
        code = await asyncio.to_thread(gateway.terminate)
        results = await asyncio.gather(*calls)
        await provider.stop()
        return gateway, code, results

    gateway, code, results = asyncio.run(main())
    assert code == 0
    assert [whole for whole, _, _ in results] == [True] * 50
    rows = rows_of(gateway)
    assert Counter(row["status"] for row in rows) == {"ok": 50}
