"""Where outcomes are labelled: histories that cost solved conversations are sent whole again, until somebody says otherwise."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from control_rig import acme, post, provider, served
from test_controls import agent

from bursar.stores.schema import Place
from bursar.surfaces import cli, orders, settings, watch
from bursar.testing.provider import Provider as Scripted

__all__ = ["provider"]

POLICY = '[compact]\nmode = "on"\nkeep_calls = 2\nholdout = "50%"\n'
USAGE = '{"usage": {"input": 900, "output": 9}}'


def talk(handle: Any, provider: Scripted, name: str, flow: str, ends: dict[bool, str]) -> bool:
    """A conversation of two calls; how it ends depends on whether its history was shortened."""
    said = acme(x_bursar_conversation=name, x_bursar_flow=flow, x_script=USAGE)
    post(handle, agent(4), **said)
    shorter = "elided" in provider.seen[-1].raw.decode()
    post(handle, agent(5), **said, x_bursar_labels=json.dumps({"outcome": ends[shorter]}))
    return shorter


def test_a_flow_that_solves_fewer_with_shorter_histories_is_sent_whole(tmp_path: Path, provider: Scripted) -> None:
    """Half of the conversations are held out; figures in `savings`, an order in force, and a person can take it back."""
    ledger = tmp_path / "ledger"
    with served(tmp_path, provider, POLICY) as handle:
        arms = [talk(handle, provider, f"a{n}", "audit", {True: "lost", False: "resolved"}) for n in range(80)]
        fine = [talk(handle, provider, f"b{n}", "fine", {True: "resolved", False: "resolved"}) for n in range(8)]
        assert 30 <= sum(arms) <= 50 and 0 < sum(fine) < 8
        clock = watch.Watch(ledger, policy=settings.parse(POLICY))
        clock.cycle(send=False)
        time.sleep(1.2)
        assert not talk(handle, provider, "after", "audit", {True: "lost", False: "resolved"})
        assert any(talk(handle, provider, f"c{n}", "fine", {True: "lost", False: "resolved"}) for n in range(8))

        done = orders.resume(Place.at(ledger), [("flow", "audit")], "eve", time.time_ns() // 1000)
        assert "may be shortened again" in done.text
        clock._outcomes_at = 0.0
        clock.cycle(send=False)  # what was before counts no more
        time.sleep(1.2)
        assert any(talk(handle, provider, f"d{n}", "audit", {True: "lost", False: "resolved"}) for n in range(8))
        clock.close()
    told = json.loads(CliRunner().invoke(cli.main, ["savings", "--ledger", str(ledger), "--json"]).output)
    (audit, _) = told["outcomes"]
    assert audit["flow"] == "audit" and audit["worse"] and audit["shorter"]["solved"] == 0 and audit["whole"]["solved"] >= 30
    shown = CliRunner().invoke(cli.main, ["savings", "--ledger", str(ledger)]).output
    assert "worse: sent whole" in shown


def test_without_a_holdout_everything_is_shortened_and_nothing_is_compared(tmp_path: Path, provider: Scripted) -> None:
    with served(tmp_path, provider, '[compact]\nmode = "on"\nkeep_calls = 2\n') as handle:
        assert all(talk(handle, provider, f"a{n}", "audit", {True: "lost", False: ""}) for n in range(5))
