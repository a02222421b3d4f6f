"""An alarm from its first sign to its end, told and not told; and a policy's alarms made ready."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.domain.alarm import ACKNOWLEDGED, Silence, Standing, decimal
from bursar.domain.policy import Alarm, Owner
from bursar.rules.alarm_policy import DEFAULTS, METRICS, amount, channels_of, compile_alarm, compile_alarms, length, owner_of
from bursar.rules.alarm_state import About, Look, Manner, calm, incident_id, scope_text, silenced, step

MINUTE, HOUR = 60_000_000, 3_600_000_000
ABOUT = About("dear", "cost", "usd", HOUR)
MANNER = Manner(after_us=0, quiet_us=10 * MINUTE, repeat_us=4 * HOUR)
SCOPE = scope_text({"tenant": "acme"})


def over(minute: int, value: int = 100) -> Look:
    return Look(minute * MINUTE, True, True, value, -1, 50, value / 50)


def play(
    looks: list[Look], manner: Manner = MANNER, about: About = ABOUT, silent: tuple[int, int] = (0, 0)
) -> tuple[Standing | None, list[tuple[int, str]]]:
    now: Standing | None = None
    told: list[tuple[int, str]] = []
    for look in looks:
        if now is not None and now.state == "resolved":
            break
        now, kind = step(now, look, about, SCOPE, manner, silent[0] <= look.at_us < silent[1])
        told += [(look.at_us // MINUTE, kind)] if kind else []
    return now, told


def test_it_fires_once_however_long_it_lasts_and_is_resolved_when_it_was_gone_for_a_while() -> None:
    now, told = play([*(over(m) for m in range(1, 30)), *(calm(m * MINUTE) for m in range(30, 45))])
    assert told == [(1, "firing"), (39, "resolved")]
    assert now is not None and now.state == "resolved" and now.resolved == 39 * MINUTE and now.notices == 2


def test_what_flickers_is_one_alarm() -> None:
    _, told = play([over(m) if m % 9 == 1 else calm(m * MINUTE) for m in range(1, 60)])
    assert [kind for _, kind in told] == ["firing"]


def test_one_that_must_last_is_pending_until_it_has() -> None:
    manner = MANNER._replace(after_us=5 * MINUTE)
    now, told = play([over(1), over(2)], manner)
    assert now is not None and now.state == "pending" and told == []
    assert play([over(1), over(2), calm(3 * MINUTE)], manner) == (None, [])
    now, told = play([over(m) for m in range(1, 8)], manner)
    assert told == [(6, "firing")] and now is not None and now.since == MINUTE and now.fired == 6 * MINUTE


def test_reminders_come_ever_later_and_at_least_daily_until_somebody_has_it() -> None:
    _, told = play([over(m) for m in range(1, 5 * 24 * 60)])
    hours = [at // 60 for at, _ in told]
    assert hours[:5] == [0, 4, 12, 28, 52] and {b - a for a, b in zip(hours[3:], hours[4:], strict=False)} == {24}
    now, _ = play([over(1)])
    assert now is not None
    taken = now._replace(state=ACKNOWLEDGED)
    assert step(taken, over(3000), ABOUT, SCOPE, MANNER, False)[1] == ""
    assert step(taken, over(3000, 200), ABOUT, SCOPE, MANNER, False)[1] == "worse"  # but doubled it is said again
    assert play([over(m) for m in range(1, 3000)], MANNER._replace(repeat_us=0))[1] == [(1, "firing")]


def test_twice_as_bad_is_said_at_once_and_half_as_good_of_what_must_not_be_too_low() -> None:
    assert play([over(1), over(2, 199), over(3, 200)])[1] == [(1, "firing"), (3, "worse")]
    below = ABOUT._replace(below=True)
    assert play([over(1, 40), over(2, 21), over(3, 20)], about=below)[1] == [(1, "firing"), (3, "worse")]


def test_its_score_is_that_of_its_worst() -> None:
    now, _ = play([over(1, 100), over(2, 150), over(3, 60)])
    assert now is not None and (now.score, now.peak, now.value) == (3.0, 150, 60)


def test_in_silence_it_goes_on_and_is_told_when_silence_ends() -> None:
    _, told = play([over(m) for m in range(1, 20)], silent=(0, 10 * MINUTE))
    assert told == [(10, "firing")]
    now, told = play([over(1), *(calm(m * MINUTE) for m in range(2, 20))], silent=(0, 60 * MINUTE))
    assert told == [] and now is not None and now.state == "resolved"


def test_who_was_not_told_that_it_began_is_not_told_that_it_ended() -> None:
    now, _ = play([over(1)], silent=(0, 5 * MINUTE))
    assert now is not None and step(now, calm(30 * MINUTE), ABOUT, SCOPE, MANNER, False)[1] == ""


def test_a_learned_alarm_begins_only_when_it_is_said_and_goes_on_without() -> None:
    quiet = over(1)._replace(opens=False)
    assert step(None, quiet, ABOUT, SCOPE, MANNER, False) == (None, "")
    now, _ = play([over(1)])
    assert step(now, over(9)._replace(opens=False), ABOUT, SCOPE, MANNER, False)[0].seen == 9 * MINUTE  # type: ignore[union-attr]


def test_a_look_from_before_changes_nothing() -> None:
    now, _ = play([over(100)])
    assert step(now, over(50, 10**6), ABOUT, SCOPE, MANNER, False) == (now, "")
    assert step(now, calm(50 * MINUTE), ABOUT, SCOPE, MANNER, False) == (now, "")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.booleans(), st.integers(1, 900)), max_size=60))
def test_every_beginning_has_one_end_and_no_number_is_given_twice(moves: list[tuple[int, bool, int]]) -> None:
    now: Standing | None = None
    at, ids, state = 0, list[str](), "none"
    for gap, bad, value in moves:
        at += gap
        now, kind = step(now, over(at, value) if bad else calm(at * MINUTE), ABOUT, SCOPE, MANNER, False)
        if kind == "firing":
            assert state in ("none", "resolved")
        if kind:
            assert now is not None
            ids.append(f"{now.id}.{now.notices}")
            state = kind
        if now is not None and now.state == "resolved":
            now = None
    assert len(ids) == len(set(ids))


def test_a_silence_matches_when_all_of_it_does() -> None:
    def quiet(match: tuple[tuple[str, str], ...], at: int = 5) -> bool:
        return silenced([Silence(1, match, 2, 9, "", "")], "dear", {"tenant": "acme", "tool": "x"}, at)

    assert quiet(()) and quiet((("tenant", "acme"),)) and quiet((("alarm", "dear"), ("tool", "x")))
    assert not quiet((("tenant", "acme"), ("tool", "y"))) and not quiet((("feature", "f"),)) and not quiet((), 9) and not quiet((), 1)


def test_ids_tell_alarms_scopes_and_beginnings_apart() -> None:
    assert len({incident_id(*one) for one in [("a", "{}", 1), ("b", "{}", 1), ("a", '{"x":"y"}', 1), ("a", "{}", 2)]}) == 4
    assert scope_text({"b": "1", "a": "2"}) == '{"a":"2","b":"1"}'


def test_amounts_are_exact_decimals() -> None:
    assert [str(decimal(u, n)) for u, n in (("usd", 1), ("share", 51_234), ("calls", 7))] == [
        "1E-12",
        "0.051234000000",
        "7.000000000000",
    ]


# -- the policy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alarm", "said"),
    [
        (Alarm(metric="costs"), "metric 'costs' is none; known are cost, calls"),
        (Alarm(metric="cost"), "no threshold; write threshold = … or learned = true"),
        (Alarm(metric="error_rate", learned=True), "cannot be learned"),
        (Alarm(metric="error_rate", threshold="0.05"), 'no share; write it as "5%"'),
        (Alarm(metric="cost", threshold="5 dollars"), "not an amount of dollars"),
        (Alarm(metric="calls", threshold="5 tokens"), "no number of calls"),
        (Alarm(metric="calls", threshold="1.5"), "no number of calls"),
        (Alarm(metric="calls", threshold="5", window="1y"), "window '1y' is no length of time"),
        (Alarm(metric="calls", threshold="5", window="99d"), "too long; at most 35d"),
        (Alarm(metric="calls", learned=True, window="24h"), "learned by the hour"),
        (Alarm(metric="cost", learned=True, per="team"), 'for a free label write per = {"team" = "*"}'),
        (Alarm(metric="cost", learned=True, per="tool"), "not known per tool"),
        (Alarm(metric="budget", threshold="90%", per="tenant"), "judged as a whole"),
        (Alarm(metric="budget", threshold="90%", window="1h"), "no window of its own"),
        (Alarm(metric="drift", threshold=1, floor="5"), "no floor"),
        (Alarm(metric="cost", learned=True, repeat="often"), "repeat 'often' is no length"),
        (Alarm(metric="cost", threshold="$-5"), "below zero"),
    ],
)
def test_an_alarm_that_means_nothing_says_what_would(alarm: Alarm, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        compile_alarm(alarm, 0)


def test_thresholds_are_read_in_the_metrics_own_unit() -> None:
    assert amount("usd", "$50", "") == 50 * 10**12 and amount("share", "5.25%", "") == 52_500
    assert amount("tokens", "2M", "") == 2_000_000 and amount("calls", 500, "") == 500 and amount("calls", "500 calls", "") == 500
    assert length("90m", "") == 90 * MINUTE and length("2w", "") == 14 * 24 * HOUR


def test_an_alarm_is_made_ready_with_what_its_metric_takes_for_granted() -> None:
    rule = compile_alarm(Alarm(metric="cost", per={"tenant": "*", "feature": "chat", "team": "*"}, threshold="$50", after="5m"), 0)
    assert rule.keys == ("team", "tenant") and rule.fixed == (("feature", "chat"),) and rule.window_us == HOUR
    assert rule.scope(("a", "acme")) == {"feature": "chat", "team": "a", "tenant": "acme"} and rule.manner.after_us == 5 * MINUTE
    assert compile_alarm(Alarm(metric="tool_calls", learned=True), 0).keys == ("tool",)
    assert {rule.metric.name for rule in compile_alarms([])} == {alarm.metric for alarm in DEFAULTS}
    assert len({rule.name for rule in compile_alarms([Alarm(metric="cost", threshold="$1")] * 3)}) == 3


def test_every_metric_can_be_made_an_alarm() -> None:
    for metric in METRICS.values():
        threshold = {"usd": "$5", "share": "5%"}.get(metric.unit, "5")
        assert compile_alarm(Alarm(metric=metric.name, threshold=threshold), 0).threshold > 0
        if metric.learnable:
            assert compile_alarm(Alarm(metric=metric.name, learned=True), 0).learned


def test_an_alarm_is_told_to_its_owners_and_to_everybody_where_nobody_is_named() -> None:
    owners = {"sup": Owner(channels=["s"], scope={"feature": "support"}), "named": Owner(channels=["n"])}
    rule = compile_alarm(Alarm(metric="cost", threshold="$1"), 0)
    named = rule._replace(owner="named", channels=("own",))
    assert channels_of(rule, {}, owners, ["s", "n", "x"]) == ("s", "n", "x")
    assert channels_of(rule, {"feature": "support", "tenant": "a"}, owners, ["x"]) == ("s",)
    assert channels_of(named, {"feature": "support"}, owners, ["x"]) == ("own", "s", "n")
    assert (
        owner_of(rule, {"feature": "support"}, owners) == "sup"
        and owner_of(named, {}, owners) == "named"
        and owner_of(rule, {}, owners) == ""
    )
