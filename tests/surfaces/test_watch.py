"""The clockwork on a real ledger, with a real receiver: what is heard, in which words, after which accidents."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from bell_rig import Receiver, check_blocks
from click.testing import CliRunner
from watch_rig import ALARMS, DAY, HOUR, MINUTE, NOW, channel, company

import ledger_rows
from bursar import drive
from bursar.domain.alarm import Notice
from bursar.domain.incident import Incident
from bursar.domain.message import Message
from bursar.domain.money import show
from bursar.domain.policy import Policy
from bursar.domain.usage import Tokens
from bursar.stores import alarms, drills, incidents, segments
from bursar.stores.reader import Reader
from bursar.stores.schema import opened, transaction
from bursar.stores.writer import Ledger
from bursar.surfaces import bell_slack, links, wiring
from bursar.surfaces import watch as watch_module
from bursar.surfaces.cli import main
from bursar.surfaces.watch import Watch, message_of
from bursar.testing.provider import Provider
from commands import Run

RIG = Path(__file__).parent / "watch_rig.py"
AWAY = "http://127.0.0.1:9/"


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drive, "raise_faults", True)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The company's ledger, half of it in segments, judged up to an hour before the loop."""
    path = tmp_path_factory.mktemp("company") / "ledger"
    rows = company()
    ledger_rows.write(path, rows[: len(rows) // 2])
    segments.compact(path, everything=True)
    ledger_rows.write(path, rows[len(rows) // 2 :])
    watch = Watch(path, policy=Policy(), clock_us=lambda: NOW - HOUR)
    watch.cycle()
    watch.close()
    return path


@pytest.fixture
def ledger(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "ledger"))


class Clock:
    def __init__(self, minute: float = 0) -> None:
        self.us = 0
        self.set(minute)

    def set(self, minute: float) -> None:
        self.us = NOW + round(minute * MINUTE) + 10_000_000

    def __call__(self) -> int:
        return self.us


def made(ledger: Path, clock: Clock, text: str) -> Watch:
    config = ledger.parent / "bursar.toml"
    config.write_text("[ledger]\ncompact_every_s = 0\n" + text, "utf-8")
    return Watch(ledger, config, clock_us=clock)


def notices(watch: Watch) -> list[tuple[str, str, int]]:
    """(alarm, kind, minute) of every notice, in order."""
    rows = watch._connection.execute(
        "SELECT a.rule, n.kind, n.at FROM notices n JOIN alarms a ON a.id = n.alarm ORDER BY n.at, a.rule"
    ).fetchall()
    return [(rule, kind, (at - NOW) // MINUTE) for rule, kind, at in rows]


# -- what is heard ---------------------------------------------------------------------------------------------------------


def test_a_loop_is_heard_within_minutes_with_its_reason_and_its_end(ledger: Path) -> None:
    clock = Clock(-1)
    with Receiver() as receiver:
        watch = made(ledger, clock, ALARMS + channel(receiver.url, more='secret = "s"') + '[watch]\nurl = "https://bursar.example"\n')
        for minute in [0, 3, 6, 10, 13, 20, 30, 100, 180]:
            clock.set(minute)
            watch.cycle()
        told = notices(watch)
        watch.close()
    first = {rule: minute for rule, kind, minute in reversed(told) if kind == "firing"}
    assert set(first) == {"dear tenants", "busy tenants", "fallbacks", "tools"}
    assert first["tools"] <= 15 and first["busy tenants"] <= 11 and first["fallbacks"] <= 5 and first["dear tenants"] <= 20
    assert Counter(kind for _, kind, _ in told)["resolved"] == 4
    assert len(receiver.got) == len(told) == len({got.headers["webhook-id"] for got in receiver.got})
    dear = next(got.json for got in receiver.got if got.json["rule"] == "dear tenants")
    assert dear["scope"] == {"tenant": "acme"} and dear["title"].startswith("acme: $") and "times the usual" in dear["title"]
    assert Decimal(dear["value"]) > 10 * Decimal(dear["normal"]) and dear["facts"]["Dearest conversation"].startswith("acme-circle, $")
    assert any("claude-sonnet-4-5" in text for text in dear["text"]), dear["text"]
    assert dear["command"].startswith("bursar why --this 2026-11-22T1") and dear["command"].endswith("--where tenant=acme")
    assert dear["links"]["Stop the dearest conversation …"].startswith("https://bursar.example/do/stop?about=")
    with Reader(ledger) as reader:
        (text,) = [row for row in reader.sqlite.execute("SELECT message FROM notices WHERE id = ?", (dear["id"],))]
    payload = json.dumps(bell_slack.payload(message_of(text[0])), indent=1, ensure_ascii=False) + "\n"
    payload = re.sub(r"sign=[0-9a-f]{32}", "sign=…", payload)
    golden = Path(__file__).parent.parent / "golden" / "alarm-slack.txt"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        golden.write_text(payload, "utf-8")
    assert payload == golden.read_text("utf-8")


def test_the_command_in_a_message_shows_the_figures_that_it_says(ledger: Path, run: Run) -> None:
    watch = made(ledger, Clock(-1), ALARMS)
    watch.cycle()
    watch._clock_us.set(30)  # type: ignore[attr-defined]
    watch.cycle()
    messages = [message_of(text) for (text,) in watch._connection.execute("SELECT message FROM notices").fetchall()]
    watch.close()
    asked = [one for one in messages if one.command.startswith("bursar why")]
    assert {str(one.data["rule"]) for one in asked} == {"dear tenants", "busy tenants", "fallbacks"}
    for one in asked:
        shown = json.loads(run(*shlex.split(one.command)[1:], "--json", "--ledger", ledger).stdout)
        assert one.text[0].startswith(f"{show(int(Decimal(shown['now']['cost']).scaleb(12)))} since ")
        assert f"{show(int(Decimal(shown['before']['cost']).scaleb(12)))} at the same time a week before" in one.text[0]


def test_of_very_many_notices_some_come_without_a_reason_and_none_comes_late(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "REASONED", 1)
    watch = made(ledger, Clock(-1), ALARMS)
    watch.cycle()
    watch._clock_us.set(30)  # type: ignore[attr-defined]
    watch.cycle()
    texts = [bool(message_of(text).text) for (text,) in watch._connection.execute("SELECT message FROM notices ORDER BY at, id").fetchall()]
    watch.close()
    assert sum(texts) == 1 and len(texts) == 8


def test_live_and_replayed_the_alarms_are_the_same(ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minute by minute, in odd strides with restarts between, all at once, and by `alarms replay`: the same ids, times, figures."""
    seen: list[list[tuple[Any, ...]]] = []
    for n, strides in enumerate(([1, 2, 3, 11, 12, 20, 21, 22, 40, 41, 60, 100, 101, 150, 199], [7, 31, 96, 199], [199])):
        copy = Path(shutil.copytree(ledger, tmp_path / f"l{n}" / "ledger"))
        clock = Clock()
        watch = made(copy, clock, ALARMS)
        for minute in strides:
            if n == 1:
                watch.close()
                watch = made(copy, clock, ALARMS)
            clock.set(minute)
            watch.cycle(send=False)
        seen.append(
            [
                (one.id, one.rule, one.scope, one.fired, one.resolved, one.peak, one.notices, one.score)
                for one in alarms.history(watch._connection)
            ]
        )
        watch.close()
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) == 4
    monkeypatch.setattr(wiring, "now_us", lambda: NOW + 199 * MINUTE + 10_000_000)
    monkeypatch.setenv("BURSAR_CONFIG", str(tmp_path / "l0" / "bursar.toml"))
    ran = CliRunner().invoke(main, ["alarms", "replay", "--json", "--since", "2026-11-22T11:00Z", "--ledger", str(ledger)])
    rows = json.loads(ran.stdout)["rows"]
    assert sorted(row["id"] for row in rows) == sorted(one[0] for one in seen[0])


def test_no_alarm_is_about_what_was_before_the_clockwork_first_ran(ledger: Path) -> None:
    ledger_rows.write(ledger.parent / "fresh", company())
    clock = Clock(45)
    watch = made(ledger.parent / "fresh", clock, '[[alarm]]\nmetric = "errors"\nthreshold = 0\n' + ALARMS)
    watch.cycle()
    assert watch._connection.execute("SELECT count(*) FROM alarms").get == 0
    clock.set(47)
    watch.cycle()  # but what is still so is said
    assert "busy tenants" in {rule for rule, _, _ in notices(watch)}
    watch.close()


def test_budgets_counters_and_drills_are_judged_as_they_stand(ledger: Path) -> None:
    text = """
[[budget]]
name = "company"
scope = "all"
limit = "$100"
[[alarm]]
metric = "budget"
threshold = "90%"
[[alarm]]
metric = "drift"
threshold = 1
[[alarm]]
metric = "drill_days"
threshold = 7
"""
    clock = Clock(1)
    watch = made(ledger, clock, text)
    watch._connection.execute(
        "INSERT INTO counters (counter, budget, unit, spent, held, resets) VALUES ('company|x', 'company', 'usd', 60000000000, 35000000000, 0)"
    )
    watch.cycle()
    found = {one.metric: one for one in alarms.open_ones(watch._connection)}
    assert found["budget"].value == 950_000 and found["drift"].value == 1 and found["drill_days"].value == 10
    drills.keep(ledger, json.dumps({"ts": NOW, "policy": "", "passed": True}))
    watch._connection.execute("DELETE FROM counters")
    clock.set(30)
    watch.cycle()
    clock.set(45)
    watch.cycle()
    assert alarms.open_ones(watch._connection) == []
    watch.close()


def test_slow_growth_is_heard_once_though_no_week_looked_odd(tmp_path: Path) -> None:
    """Eight weeks, each a seventh dearer than the one before: nothing is learned from it but that."""
    day = NOW // DAY * DAY
    rows = [
        ledger_rows.entry(week * 70 + n, day - (8 - week) * 7 * DAY + n * DAY // 10, Tokens(input=round(4_000_000 * 1.15**week)), tenant="a", feature="corpus")
        for week in range(8) for n in range(70)
    ]  # fmt: skip
    ledger_rows.write(tmp_path / "ledger", rows)
    clock = Clock(0)
    clock.us = day + HOUR
    watch = made(
        tmp_path / "ledger",
        clock,
        '[[alarm]]\nmetric = "creep"\nper = "feature"\nfloor = "$1"\n[[alarm]]\nmetric = "cost"\nper = "feature"\nlearned = true\n',
    )
    watch.cycle()
    for hours in (2, 3, 12, 23):
        clock.us = day + hours * HOUR
        watch.cycle()
    told = watch._connection.execute("SELECT message FROM notices").fetchall()
    (message,) = [message_of(text) for (text,) in told]
    assert message.title.startswith("corpus: $") and "a week, 1." in message.title and "times the week to 2026-" in message.title
    assert message.text[0].count("in the week to 2026-") == 2 and message.text[1].startswith("Tokens read a call"), message.text
    assert message.command.startswith("bursar why --this ") and "--versus" in message.command
    watch.close()


# -- people ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch, ledger: Path) -> Run:
    monkeypatch.setenv("BURSAR_CONFIG", str(ledger.parent / "bursar.toml"))
    monkeypatch.setattr(wiring, "now_us", lambda: NOW + 31 * MINUTE)
    return run


def fired(ledger: Path, minute: int = 30, text: str = ALARMS) -> dict[str, str]:
    """Ids of what fires by then, by alarm."""
    watch = made(ledger, Clock(minute), text)
    watch.cycle()
    ids = {one.rule: one.id for one in alarms.open_ones(watch._connection)}
    watch.close()
    return ids


def test_one_that_somebody_has_is_not_repeated_and_what_was_judged_is_counted(ledger: Path, run: Run) -> None:
    with Receiver() as receiver:
        text = ALARMS + channel(receiver.url)
        ids = fired(ledger, text=text)
        assert len(ids) == 4
        listed = json.loads(run("alarms", "--ledger", ledger, "--json", code=1).stdout)
        assert {row["id"] for row in listed["rows"]} == set(ids.values())
        for id in ids.values():
            run("alarms", "ack", id[:6], "--ledger", ledger)
        run("alarms", "--ledger", ledger)
        run("alarms", "judge", ids["tools"], "useful", "--ledger", ledger)
        run("alarms", "judge", ids["fallbacks"], "noise", "--ledger", ledger)
        run("alarms", "judge", ids["busy tenants"], "noise", "--ledger", ledger)
        run("alarms", "judge", ids["busy tenants"], "useful", "--ledger", ledger)  # the last word counts
        before = len(receiver.got)
        fired(ledger, 60 * 6, text)
        assert {got.json["kind"] for got in receiver.got[before:]} == {"resolved"}
    rules = {row["alarm"]: row for row in json.loads(run("alarms", "--rules", "--ledger", ledger, "--json").stdout)["rows"]}
    assert [rules[name]["precision"] for name in ("tools", "fallbacks", "busy tenants", "dear tenants")] == [
        "1.000000",
        "0.000000",
        "1.000000",
        None,
    ]
    assert rules["busy tenants"]["time_to_detect_s"] is not None
    run("alarms", "judge", "ffffffff", "noise", "--ledger", ledger, code=2)


def test_silence_is_kept_and_ends(ledger: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "now_us", lambda: NOW - HOUR)
    run("alarms", "silence", "tenant=acme", "--for", "90m", "--note", "load test", "--ledger", ledger)
    run("alarms", "silence", "alarm=tools", "--for", "90m", "--ledger", ledger)
    run("alarms", "silence", "nonsense", "--ledger", ledger, code=2)
    with Receiver() as receiver:
        fired(ledger, 25, ALARMS + channel(receiver.url))
        assert receiver.got == []
        fired(ledger, 32, ALARMS + channel(receiver.url))
        assert {got.json["kind"] for got in receiver.got} == {"firing"} and len(receiver.got) == 4
    assert "load test" in run("alarms", "--ledger", ledger, code=1).stdout
    run("alarms", "silence", "--end", 1, "--ledger", ledger)
    run("alarms", "silence", "--end", 1, "--ledger", ledger, code=2)


def test_a_test_is_sent_to_each_channel_and_says_what_came_of_it(ledger: Path, run: Run) -> None:
    with Receiver(200, 500) as receiver:
        (ledger.parent / "bursar.toml").write_text(
            channel(receiver.url, "a") + channel(receiver.url, "b") + channel(AWAY, "c"), "utf-8"
        )
        rows = json.loads(run("alarms", "test", "--json", code=1).stdout)["rows"]
        assert [row["delivered"] for row in rows] == [True, False, False]
        run("alarms", "test", "a")
    assert receiver.got[-1].json["kind"] == "test"
    run("alarms", "test", "nobody", code=2)


def test_alarms_are_a_view_with_exact_amounts(ledger: Path) -> None:
    ids = fired(ledger)
    with Reader(ledger) as reader:
        rows = {row["rule"]: row for row in reader.sql("SELECT * FROM alarms")}
    assert {rule: row["id"] for rule, row in rows.items()} == ids
    assert rows["fallbacks"]["value"] < 1 and rows["busy tenants"]["threshold"] == 100 and rows["busy tenants"]["normal"] is None
    assert rows["dear tenants"]["scope"] == {"tenant": "acme"} and rows["dear tenants"]["resolved"] is None


# -- links -----------------------------------------------------------------------------------------------------------------


def test_a_link_acts_once_until_it_expires_and_only_as_it_was_signed(ledger: Path) -> None:
    id = fired(ledger)["tools"]
    key = links.key(Policy().watch, ledger)
    assert key == links.key(Policy().watch, ledger) and (ledger / links.SECRET_FILE).stat().st_mode & 0o77 == 0
    query = links.make("https://b.example/", key, "noise", id, NOW + HOUR).partition("?")[2]
    link = links.read(key, "noise", query, NOW)
    assert (link.action, link.about) == ("noise", id)
    for action, text, at, code in [
        ("useful", query, NOW, "forged"), ("noise", query.replace(id, "0" * 10), NOW, "forged"), ("noise", "", NOW, "forged"),
        ("noise", query + "&sign=%ff", NOW, "forged"), ("noise", query, NOW + HOUR, "expired"), ("drop", query, NOW, "forged"),
        ("noise", query.replace("until=1", "until=2"), NOW, "forged"),
    ]:  # fmt: skip
        with pytest.raises(links.BadLink) as bad:
            links.read(key, action, text, at)
        assert bad.value.code == code
    with pytest.raises(links.BadLink):
        links.read(b"another", "noise", query, NOW)
    assert "judged noise" in links.perform(ledger, link, "mia", NOW)
    with pytest.raises(links.BadLink) as bad:
        links.perform(ledger, link, "mia", NOW)
    assert bad.value.code == "used"
    stop = links.read(key, "stop", links.make("", key, "stop", '{"conversation":"acme-circle"}', NOW + HOUR).partition("?")[2], NOW)
    assert "conversation=acme-circle" in links.perform(ledger, stop, "mia", NOW)
    with opened(ledger, read_only=True) as connection:
        assert connection.execute("SELECT kind, match FROM orders").fetchall() == [("stop", '[["conversation","acme-circle"]]')]


# -- many at once ----------------------------------------------------------------------------------------------------------


def slack(receiver: Receiver, more: str = "") -> str:
    return channel(receiver.url, "slack", more).replace('kind = "webhook"', 'kind = "slack"')


def put_notices(watch: Watch, names: str, kind: str = "firing", dollars: int = 0) -> None:
    """Something to be told of so many alarms, as the judging would have left it."""
    with transaction(watch._connection):
        for n, name in enumerate(names):
            data = {"alarm": name, "unit": "usd", "dollars": str(dollars + n) if dollars else None}
            message = Message(f"{name}.{kind}", kind, watch._clock_us(), f"{name} is dear", (), (), "", (), data)
            notice = Notice(message.id, name, kind, message.at_us, json.dumps(message), ("slack",))
            alarms.put(watch._connection, notice, message.at_us)


def texts(receiver: Receiver) -> list[str]:
    return [got.json["text"] for got in receiver.got]


def test_many_alarms_at_once_are_one_message_that_lists_them_by_dollars(ledger: Path) -> None:
    clock = Clock(-1)
    with Receiver() as people, Receiver() as program:
        watch = made(ledger, clock, ALARMS + slack(people) + channel(program.url) + '[watch]\nurl = "https://bursar.example"\n')
        watch.cycle()
        clock.set(30)
        watch.cycle()
        ids = {one.id: one for one in alarms.history(watch._connection)}
        assert len(ids) == 4 and len(program.got) == 8  # a program gets each by itself, and that it got worse
        (got,) = people.got
        (attachment,) = got.json["attachments"]
        lines = [block for block in attachment["blocks"] if "accessory" in block]
        assert [line["text"]["text"].split(" · ")[-1] for line in lines] == sorted(
            ids, key=lambda id: -Decimal({one.json["alarm"]: one.json["dollars"] for one in program.got}[id] or "-1")
        )
        assert got.json["text"].startswith("4 alarms: 4 new; dearest: acme: ")
        assert all("/do/ack?about=" + id in line["accessory"]["url"] for line in lines for id in [line["text"]["text"].split(" · ")[-1]])
        assert set(alarms.heard(watch._connection)) == set(ids)
        assert {one.state for id in ids for one in alarms.sent(watch._connection, id)} == {"delivered"}
        clock.set(200)
        watch.cycle()
        assert len(people.got) == 2 and texts(people)[1].startswith("4 alarms: 4 over")
        watch.close()


def test_a_few_alarms_come_one_by_one_and_those_above_wait_for_the_burst_to_end(ledger: Path) -> None:
    clock = Clock(0)
    with Receiver() as receiver:
        watch = made(ledger, clock, slack(receiver))
        watch.cycle()

        def round(names: str, seconds: int, kind: str = "firing", dollars: int = 0) -> list[str]:
            clock.us += seconds * 1_000_000
            receiver.got.clear()
            put_notices(watch, names, kind, dollars)
            watch.bell.send_due()
            return texts(receiver)

        assert round("ab", 60) == ["a is dear", "b is dear"]
        assert round("cd", 60) == ["2 alarms: 2 new"]  # one may still go by itself: they go as one
        assert round("e", 60) == [] and round("f", 60) == []
        assert round("", 118) == [] and round("", 3) == ["e is dear", "f is dear"]  # five minutes after the first two
        assert round("g", 1) == [] and round("", 300) == ["g is dear"]
        assert [text.split(";")[0] for text in round("hijkl", 300, dollars=5)] == ["5 alarms: 5 new"]
        assert receiver.got[0].json["text"].startswith("5 alarms: 5 new; dearest: l is dear")
        assert round("h", 301, "worse") + round("h", 1, "resolved") == ["h is dear", "h is dear"]
        watch.close()


def test_tests_and_hand_offs_wait_for_no_alarms_and_a_digest_can_be_switched_off(ledger: Path) -> None:
    clock = Clock(0)
    with Receiver() as receiver:
        watch = made(ledger, clock, slack(receiver))
        watch.cycle()
        put_notices(watch, "abcdef")
        put_notices(watch, "gh", "handoff")
        watch.bell.send_due()
        assert sorted(texts(receiver)) == ["6 alarms: 6 new", "g is dear", "h is dear"]
        watch.close()
        receiver.got.clear()
        watch = made(ledger, clock, slack(receiver, "digest = 0"))
        watch.cycle()
        put_notices(watch, "mnopqr")
        watch.bell.send_due()
        assert texts(receiver) == [f"{name} is dear" for name in "mnopqr"]
        watch.close()


def test_a_digest_that_was_under_way_when_the_process_died_is_the_same_one_again(ledger: Path) -> None:
    clock = Clock(0)
    with Receiver() as receiver:
        watch = made(ledger, clock, slack(receiver))
        watch.cycle()
        put_notices(watch, "abcde")

        def die(step: str) -> None:
            if step == "sent":
                raise RuntimeError("killed")

        watch._step = die
        with pytest.raises(RuntimeError):
            watch.bell.send_due()  # it arrived, and nobody wrote that down
        watch._step = lambda _: None
        watch.close()
        watch = made(ledger, clock, slack(receiver))
        put_notices(watch, "fg")
        clock.us += 6_000_000
        watch.cycle()
        found = Counter(got.headers["webhook-id"] for got in receiver.got)
        assert sorted(found.values()) == [1, 1, 2] and found.most_common(1)[0][0].startswith("digest.")
        assert all(one.state == "delivered" for one in alarms.sent(watch._connection))
        watch.close()


def test_a_channel_that_waits_for_its_burst_holds_up_no_other(ledger: Path) -> None:
    clock = Clock(0)
    with Receiver() as receiver, Receiver() as other:
        watch = made(ledger, clock, slack(receiver) + channel(other.url))
        watch.cycle()
        put_notices(watch, "abc")
        watch.bell.send_due()
        put_notices(watch, [f"n{n}" for n in range(300)])  # type: ignore[arg-type]
        clock.us += 1_000_000
        with transaction(watch._connection):
            message = Message("z.1", "firing", clock.us, "z", (), (), "", (), {"alarm": "z"})
            alarms.put(watch._connection, Notice("z.1", "z", "firing", clock.us, json.dumps(message), ("hook",)), clock.us)
        watch.bell.send_due()
        assert [got.json["id"] for got in other.got] == ["z.1"] and len(receiver.got) == 3
        clock.us += 300_000_000
        watch.bell.send_due()
        assert len(receiver.got) == 5 and sum(one.state == "delivered" for one in alarms.sent(watch._connection)) == 306
        check_blocks(receiver.got[-1].json)
        watch.close()


# -- accidents -------------------------------------------------------------------------------------------------------------


def test_a_channel_that_fails_is_tried_again_and_given_up_after_a_day(ledger: Path) -> None:
    clock = Clock(30)
    with Receiver(*[500] * 6) as receiver:
        watch = made(ledger, clock, '[[alarm]]\nmetric = "calls"\nper = "tenant"\nthreshold = 100\n' + channel(receiver.url))
        watch.cycle()
        first = [got.headers["webhook-id"] for got in receiver.got]
        assert first
        watch.cycle()
        assert len(receiver.got) == len(first)  # not at once
        clock.us += 6_000_000
        watch.cycle()
        assert [got.headers["webhook-id"] for got in receiver.got] == first * 2
        for _ in range(10):
            clock.us += 20 * MINUTE
            watch.cycle()
        assert any(one.state == "delivered" for one in alarms.sent(watch._connection))
        watch.close()
    watch = made(ledger, clock, channel(AWAY))
    watch.cycle()
    with transaction(watch._connection):
        text = watch._connection.execute("SELECT message FROM notices LIMIT 1").get
        alarms.put(watch._connection, Notice("n", "a", "test", clock.us, text, ("hook", "gone")), clock.us)
    for hours in range(26):
        clock.us += HOUR if hours else 0
        watch.bell.send_due()
    assert {(one.channel, one.state) for one in alarms.sent(watch._connection) if one.notice == "n"} == {
        ("hook", "given_up"),
        ("gone", "given_up"),
    }
    watch.close()


def test_a_channel_that_hangs_holds_up_no_other_and_no_judging(ledger: Path) -> None:
    clock = Clock(30)
    stop = threading.Event()
    with Receiver(hang_s=3) as slow, Receiver() as fast:
        text = ALARMS + channel(slow.url, "slow", "timeout_s = 3") + channel(fast.url, "fast") + "[watch]\nevery_s = 0.2\n"
        watch = made(ledger, clock, text)
        thread = threading.Thread(target=watch.run, args=(stop,))
        start = time.monotonic()
        thread.start()
        while len(fast.got) < 4 and time.monotonic() - start < 10:
            time.sleep(0.02)
        assert len(fast.got) >= 4 and time.monotonic() - start < 8
        clock.set(200)
        while sum(got.json["kind"] == "resolved" for got in fast.got) < 4 and time.monotonic() - start < 20:
            time.sleep(0.02)
        assert sum(got.json["kind"] == "resolved" for got in fast.got) == 4 and len(slow.got) <= 1 + (time.monotonic() - start) / 3
        stop.set()
        thread.join(20)
    assert not thread.is_alive()


def test_one_of_several_leads_and_the_next_takes_over(ledger: Path) -> None:
    clock = Clock(1)
    one, two = made(ledger, clock, ALARMS), made(ledger, clock, ALARMS)
    one.cycle()
    two.cycle()
    assert (one.leads, two.leads) == (True, False)
    one.close()
    two.cycle()
    assert two.leads
    three = made(ledger, clock, ALARMS)
    two._connection.execute("UPDATE watch SET until = 0")  # it hung for longer than its lease
    three.cycle()
    assert three.leads
    with pytest.raises(alarms.Lost):
        alarms.commit(two._connection, two.lead, (), (), (), 0, 0)
    clock.set(30)
    two.cycle()
    assert not two.leads and two._connection.execute("SELECT count(*) FROM alarms").get == 0
    two.close()
    three.close()


def test_a_clock_that_steps_and_a_machine_that_sleeps_neither_lose_nor_repeat_an_alarm(ledger: Path) -> None:
    clock = Clock(0)
    watch = made(ledger, clock, ALARMS)
    watch.cycle()
    clock.set(-1)  # a small step back: time catches up
    watch.cycle()
    clock.set(400)  # asleep through all of it
    watch.cycle()
    told = notices(watch)
    assert Counter(kind for _, kind, _ in told) == Counter(
        firing=4, resolved=4, **{k: v for k, v in Counter(kind for _, kind, _ in told).items() if k not in ("firing", "resolved")}
    )
    clock.set(20)  # a large one: judged anew from there on, and what was said is not said again
    watch.cycle()
    clock.set(21)
    watch.cycle()
    watch.cycle()
    assert len({row for row in watch._connection.execute("SELECT id FROM notices")}) == len(notices(watch))
    assert alarms.beat(watch._connection).judged == NOW + 21 * MINUTE
    watch.close()


def test_holds_of_the_dead_expire_and_rows_are_moved_by_the_clockwork(ledger: Path) -> None:
    script = (
        "import os,sys; sys.path.insert(0, sys.argv[2]); import ledger_rows\n"
        "from bursar.domain.entry import Hold; from bursar.domain.usage import Tokens; from bursar.stores.writer import Ledger\n"
        "led = Ledger.open(sys.argv[1], clock_us=lambda: 1); row = ledger_rows.entry(999999, 1, Tokens())\n"
        "led.hold(Hold(row.id, 1, 5000, (), row)); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(ledger), str(RIG.parent.parent)], check=False)
    clock = Clock(1)
    watch = made(ledger, clock, "")
    watch.cycle()
    with Reader(ledger) as reader:
        assert reader.holds() == []
        (row,) = reader.sql("SELECT status, cost FROM calls WHERE id = 'c999999.1'")
    assert row == {"status": "unknown", "cost": Decimal("0.000000005")}
    clock.us += 2 * HOUR
    watch.compact()
    with Reader(ledger) as reader:
        assert reader.sqlite.execute("SELECT count(*) FROM tail WHERE seq > (SELECT seq FROM handed)").get == 0
    watch.close()


def test_what_is_over_goes_when_its_time_has_come_and_money_that_was_stopped_is_still_told(ledger: Path, run: Run) -> None:
    ids = fired(ledger)
    clock = Clock(500)
    with opened(ledger) as connection:
        with transaction(connection):
            incidents.write(connection, [
                Incident("old", NOW - 50 * DAY, "stopped", "budget_exceeded", "why", kept=3_000_000_000_000),
                Incident("waits", NOW - 50 * DAY, "stopped", "budget_exceeded", "why", state="open"),
                Incident("new", NOW, "stopped", "budget_exceeded", "why"),
            ])  # fmt: skip
    watch = made(ledger, clock, ALARMS + '[retention]\nincidents = "30d"\nalarms = "35d"\n')
    watch.cycle()
    assert {one.key for one in incidents.listed(watch._connection)} == {"waits", "new"}
    told = run("guard", "incidents", "--ledger", ledger).stdout
    assert "older, summed by day: 1 incidents, 1 calls, at most $3.00 stopped" in told
    summed = json.loads(run("guard", "incidents", "--json", "--ledger", ledger).stdout)["summed"]
    assert [(day["kept"], day["act"], day["incidents"]) for day in summed] == [("3", "stopped", 1)]
    assert {one.id for one in alarms.history(watch._connection)} == set(ids.values())
    clock.us += 36 * DAY
    watch._tidy_at = 0.0
    watch.cycle()
    assert not {one.id for one in alarms.history(watch._connection)} & set(ids.values())
    with Ledger.open(ledger, clock_us=clock) as book:
        book._keeper.compare(mend=False)
        assert (book.stats()["incidents"], book.stats()["incidents_summed"]) == (1, 2)
    watch.close()


def test_of_alarms_that_are_over_only_so_many_are_kept(ledger: Path) -> None:
    fired(ledger)
    watch = made(ledger, Clock(500), "")
    watch.cycle()
    newest = watch._connection.execute("SELECT id FROM alarms ORDER BY resolved DESC, n DESC LIMIT 1").get
    alarms.tidy(watch._connection, watch.lead, NOW, DAY, most=1)
    assert [one.id for one in alarms.history(watch._connection) if one.state == "resolved"] == [newest]
    watch.close()


def test_a_bad_policy_leaves_the_last_good_one_in_force(ledger: Path) -> None:
    clock = Clock(30)
    watch = made(ledger, clock, ALARMS)
    config = ledger.parent / "bursar.toml"
    config.write_text("nonsense =", "utf-8")
    watch.cycle()
    assert len(alarms.open_ones(watch._connection)) == 4
    config.write_text("[ledger]\ncompact_every_s = 0\n[[alarm]]\nmetric = 'calls'\nthreshold = 100\nname = 'only'\n", "utf-8")
    clock.set(31)
    watch.cycle()
    assert [one.rule for one in alarms.open_ones(watch._connection)] == ["only"]  # the others ended without a word
    assert "resolved" not in {kind for _, kind, _ in notices(watch)}
    watch.close()


# -- killed ----------------------------------------------------------------------------------------------------------------

MINUTES = [5, 12, 25, 41, 130, 131, 150, 151, 152, 153]


def rig(ledger: Path, config: Path, step: int = 0) -> subprocess.Popen[bytes]:
    words = [sys.executable, str(RIG), str(ledger), str(config), str(step), *map(str, MINUTES)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def killed(ledger: Path, folder: Path, chance: random.Random, points: int) -> None:
    """Kill it at so many points, by its own steps and by time alike; whatever was due arrives, and no id more than twice: one by
    one, and on the channel with digests, where each is in one message."""
    with Receiver() as receiver, Receiver() as people:
        config = folder / "bursar.toml"
        config.write_text("[ledger]\ncompact_every_s = 0\n" + ALARMS + channel(receiver.url) + channel(people.url, "people", "digest = 2"), "utf-8")
        clean = Path(shutil.copytree(ledger, folder / "clean"))
        start = time.monotonic()
        out, err = rig(clean, config).communicate(timeout=60)
        took, steps = time.monotonic() - start, json.loads(out)["steps"]
        expected = {got.headers["webhook-id"] for got in receiver.got}
        assert len(expected) >= 8 and len(receiver.got) == len(expected), err
        assert any(got.json["kind"] == "digest" for got in people.got)
        twice = 0
        for point in range(points):
            receiver.got.clear()
            people.got.clear()
            copy = Path(shutil.copytree(ledger, folder / "killed"))
            if point % 2:
                process = rig(copy, config, chance.randrange(1, steps + 1))
            else:
                process = rig(copy, config)
                time.sleep(chance.uniform(0.3, 1.0) * took)
                process.kill()
            process.communicate(timeout=60)
            process = rig(copy, config)
            _, err = process.communicate(timeout=60)
            assert process.returncode == 0, err.decode()
            counts = Counter(got.headers["webhook-id"] for got in receiver.got)
            assert set(counts) == expected, (point, expected - set(counts), set(counts) - expected)
            assert max(counts.values()) <= 2, (point, counts)
            found = {got.json["id"]: tuple(got.json.get("notices", (got.json["id"],))) for got in people.got}
            assert sorted(id for ids in found.values() for id in ids) == sorted(expected), point
            assert max(Counter(got.json["id"] for got in people.got).values()) <= 2, point
            twice += sum(count == 2 for count in counts.values())
            shutil.rmtree(copy)
        print(f"{points} kills: {twice} duplicates of {points * len(expected)} notices")


def test_killed_at_random_points_every_alarm_is_delivered_and_none_more_than_twice(ledger: Path, tmp_path: Path) -> None:
    killed(ledger, tmp_path, random.Random(7), 4)


@pytest.mark.soak
def test_killed_at_500_random_points_every_alarm_is_delivered_and_none_more_than_twice(ledger: Path, tmp_path: Path) -> None:
    killed(ledger, tmp_path, random.Random(11), 500)


# -- beside a gateway ------------------------------------------------------------------------------------------------------


def test_the_gateways_clockwork_is_another_process_and_a_hanging_channel_is_not_the_gateways(tmp_path: Path) -> None:
    """No call fails, the gateway itself has no connection to the channel and no query engine, and its child ends with it."""
    with Provider() as provider, Receiver(hang_s=30) as receiver:
        config = tmp_path / "bursar.toml"
        config.write_text(
            f'[providers.openai]\nbase_url = "{provider.url}"\nkey = "sk-x"\n[watch]\nevery_s = 0.5\n'
            f'[[alarm]]\nmetric = "calls"\nthreshold = 1\n{channel(receiver.url, "slack")}', "utf-8",
        )  # fmt: skip
        ledger = tmp_path / "ledger"
        with Ledger.open(ledger, clock_us=wiring.now_us):
            pass
        row = ledger_rows.entry(1, wiring.now_us() - 90_000_000, Tokens(input=5))
        ledger_rows.write(ledger, [row])
        with opened(ledger) as connection:  # as if a clockwork had run until three minutes ago
            connection.execute("UPDATE watch SET judged = ?", ((wiring.now_us() - 180_000_000) // MINUTE * MINUTE,))
        gateway = subprocess.Popen(
            [sys.executable, "-m", "bursar", "serve", "--port", "0", "--config", str(config), "--ledger", str(ledger)],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert gateway.stderr is not None
        url = gateway.stderr.readline().split()[3]
        threading.Thread(target=gateway.stderr.read, daemon=True).start()
        until = time.monotonic() + 30
        while not receiver.got and time.monotonic() < until:
            time.sleep(0.05)
        assert receiver.got, "the alarm was never sent"
        for _ in range(20):
            body = json.dumps({"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hi"}]}).encode()
            ask = urllib.request.Request(url + "/v1/chat/completions", body, {"content-type": "application/json"})
            with urllib.request.urlopen(ask, timeout=10) as reply:
                assert reply.status == 200
        process = psutil.Process(gateway.pid)
        (child,) = process.children()
        port = int(receiver.url.split(":")[2].split("/")[0])
        assert any(c.raddr and c.raddr.port == port for c in child.net_connections())
        assert not any(c.raddr and c.raddr.port == port for c in process.net_connections())
        assert not any("duckdb" in m.path for m in process.memory_maps()) and any("duckdb" in m.path for m in child.memory_maps())
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(20) == 0
        child.wait(20)


def test_watch_by_itself_ends_when_told(ledger: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bursar", "watch", "--ledger", str(ledger)], stderr=subprocess.PIPE, cwd=ledger.parent
    )
    assert process.stderr is not None and b"watching" in process.stderr.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
