"""How good watching and explaining are, on recorded and on made material: `python -m bench.watch [NAME…]` (needs BURSAR_DATA or
../shared/data). Some ten minutes for all of it; names are alarms, tools, new, nab, why, slices, forecast, hang.

What is measured is what the tests hold to bounds; here stand the figures themselves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
DATA = Path(os.environ.get("BURSAR_DATA") or ROOT.parent / "shared" / "data")


def say(what: str, found: str) -> None:
    print(f"{what:<64} {found}", flush=True)


def alarms() -> None:
    """Real clients through the clockwork's judges; their own alarms all count as false."""
    from bursar.domain.policy import Alarm
    from rules.alarm_made import clients
    from rules.test_alarm_judge import measured

    some = clients(DATA)
    for level in ("page", "ticket"):
        often, found = measured(some, Alarm(metric="calls", per="tenant", learned=True, level=level))
        say(f"{level}: false alarms a client and week; 10x loops in the hour", f"{often:.3f}; {found:.1%}")


def tools() -> None:
    """A tool that goes from 200 calls a day to 2,000 an hour, over fifty seeds; and how often sixteen ordinary ones are wrong."""
    from bursar.domain.policy import Alarm
    from bursar.rules.alarm_judge import MINUTE_US, Fed, judge_of
    from bursar.rules.alarm_policy import compile_alarm
    from rules.test_alarm_rate import ordinary, poisson

    after: list[int] = []
    false = 0
    for seed in range(50):
        chance = Random(seed)
        week = ordinary(9, 200, seed)
        loud = [poisson(chance, 2000 / 60) for _ in range(60)]
        judge = judge_of(compile_alarm(Alarm(metric="tool_calls", learned=True), 0))
        judge.feed([Fed(m, ("search",), n) for m, n in enumerate([*week, *loud]) if n])
        opened = [look.at_us // MINUTE_US - len(week) for _, _, look in judge.run(len(week) + 59) if look.opens]
        false += sum(minute <= 0 for minute in opened)
        after.append(next((minute for minute in opened if minute > 0), 10**6))
    say("a tool from 200 a day to 2,000 an hour: heard after, of 50", f"{median(after):.0f} min, at most {max(after)}; {false} false in 9 days")


def new() -> None:
    """Clients in their first week, without a line."""
    from bursar.rules.alarm import WEEK
    from rules.alarm_made import clients
    from rules.test_alarm_judge import Fed, judge, run

    some = clients(DATA)
    loud = 0
    for client in some:
        born = next(n for n, calls in enumerate(client.calls) if calls)
        rows = [Fed(t * 10, (client.name,), c) for t, c in enumerate(client.calls[: born + WEEK]) if c]
        loud += bool(run(judge(), rows, (born + WEEK) * 10))
    say("new clients that alarm in their first week", f"{loud} of {len(some)}")


def nab() -> None:
    """The benchmark's open series, its scoring; ours as it is, and with two days of history in place of a week."""
    from bursar.rules.alarm import DAY, WEEK
    from rules.nab import PROFILES, ours, score, series

    lines = list(series(DATA))
    for name, young in (("as it is", WEEK), ("judging after two days", 2 * DAY)):
        said = [(line, ours(line, young)) for line in lines]
        found = ", ".join(f"{profile} {score(said, weights)[0]:.1f}" for profile, weights in PROFILES.items())
        say(f"NAB, {len(lines)} series, {name}", found)


def why() -> None:
    """Random ledgers, and ledgers with one planted cause."""
    from bursar.rules.why import explain
    from rules.test_why_findings import names_it
    from rules.why_made import all_planted, random_side

    chance, left = Random(2), 0
    for _ in range(100_000):
        before, now = random_side(chance), random_side(chance)
        found = explain(before, now)
        left += sum(found.drivers.values()) != found.now - found.before
    say("random ledgers whose drivers do not close to the pico-dollar", f"{left} of 100,000")
    cases = [names_it(case) for case in all_planted(17)]
    say("planted causes named, with their place, by the first finding", f"{sum(cases)} of {len(cases)}")


def slices() -> None:
    """Made cases, and the real ones of a video network."""
    from rules.slices_made import L, S, cases
    from rules.test_why_slices import as_bursar_does, f1, observed

    say("made cases of set S (40): F1", f"{f1(cases(S, 121, 40)):.2f}")
    say("made cases of set L (30): F1", f"{f1(cases(L, 122, 30)):.2f}")
    first = three = sure = right = count = 0
    for dims, leaves, pairs, truth in observed(DATA):
        found = as_bursar_does(dims, leaves, pairs)
        hits = [frozenset(one.element) in truth for one in found[:3]]
        first, three, count = first + hits[0], three + any(hits), count + 1
        if found[0].gain >= 50:
            sure, right = sure + 1, right + hits[0]
    say("real cases: the first names a cause; one of three; when sure", f"{first}, {three} of {count}; {right} of {sure}")


def forecast() -> None:
    """Ranges on real clients, hour by hour, a day as the season: all of them, and the half that nothing was chosen on."""
    from rules.test_forecast import held, other_half, real, widths

    series = real(DATA)
    for name, some in (("", series), (", other half", other_half(series))):
        for horizon in (6, 12, 24, 48, 72):
            shares, trials = held(some, horizon)
            wide = " and ".join(f"{width:.1f}" for width in widths(some, horizon))
            found = f"{shares[0]:.1%}, {shares[1]:.1%} of {trials:,}; {wide} points wide"
            say(f"forecast {horizon} hours ahead{name}: 80% and 95% ranges held", found)


def hang() -> None:
    """CPU of the gateway a call, in turns with a channel that hangs on an alarm and with one that took it: best of five each."""
    import json
    import subprocess
    import tempfile
    import threading
    from http.client import HTTPConnection

    import psutil

    import ledger_rows
    from bursar.domain.usage import Tokens
    from bursar.stores.schema import opened
    from bursar.stores.writer import Ledger
    from bursar.surfaces import wiring
    from bursar.testing.provider import Provider
    from surfaces.bell_rig import Receiver

    minute, calls = 60_000_000, 1500
    body = json.dumps({"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]})

    def run(hang_s: float) -> tuple[float, int]:
        with Receiver(hang_s=hang_s) as receiver, tempfile.TemporaryDirectory() as folder, Provider() as provider:
            config, ledger = Path(folder) / "bursar.toml", Path(folder) / "ledger"
            channel = f'[channels.slack]\nurl = "{receiver.url}"\nprivate = true\ntimeout_s = 60\n'
            alarm = '[watch]\nevery_s = 0.5\n[[alarm]]\nmetric = "calls"\nthreshold = 1\n'
            config.write_text(f'[providers.openai]\nbase_url = "{provider.url}"\nkey = "sk-x"\n{alarm}{channel}', "utf-8")
            with Ledger.open(ledger, clock_us=wiring.now_us):
                pass
            ledger_rows.write(ledger, [ledger_rows.entry(1, wiring.now_us() - 90_000_000, Tokens(input=5))])
            with opened(ledger) as connection:
                connection.execute("UPDATE watch SET judged = ?", ((wiring.now_us() - 3 * minute) // minute * minute,))
            words = [sys.executable, "-m", "bursar", "serve", "--port", "0", "--config", str(config), "--ledger", str(ledger)]
            gateway = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
            assert gateway.stderr is not None
            port = int(gateway.stderr.readline().split()[3].rsplit(":", 1)[1])
            threading.Thread(target=gateway.stderr.read, daemon=True).start()
            until = time.monotonic() + 30
            while not receiver.got and time.monotonic() < until:
                time.sleep(0.05)
            assert receiver.got, "no alarm was sent"
            client, failed, process = HTTPConnection("127.0.0.1", port), 0, psutil.Process(gateway.pid)
            for n in range(calls + 200):
                if n == 200:
                    was = process.cpu_times()
                client.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
                reply = client.getresponse()
                reply.read()
                failed += reply.status != 200
            now = process.cpu_times()
            gateway.terminate()
            gateway.wait(30)
            return 1e6 * (now.user + now.system - was.user - was.system) / calls, failed

    runs = [(run(60), run(0)) for _ in range(5)]
    hung, took = (min(pair[n][0] for pair in runs) for n in (0, 1))
    failed = sum(one[1] for pair in runs for one in pair)
    say("gateway CPU a call: Slack hangs; Slack answers; calls that failed", f"{hung:.0f} us; {took:.0f} us; {failed} of {10 * (calls + 200):,}")


MEASURES: dict[str, Callable[[], None]] = {
    "alarms": alarms, "tools": tools, "new": new, "nab": nab, "why": why, "slices": slices, "forecast": forecast, "hang": hang,
}  # fmt: skip


def main(names: list[str]) -> int:
    if not DATA.is_dir():
        print(f"recorded material not found at {DATA}; set BURSAR_DATA")
        return 0
    for name in names or MEASURES:
        start = time.perf_counter()
        MEASURES[name]()
        print(f"  ({name}: {time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
