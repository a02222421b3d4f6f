"""What a guard makes of a conversation: the limits themselves are tested where they act (tests/surfaces/test_guard.py)."""

from __future__ import annotations

from bursar.domain.labels import Labels
from bursar.domain.thread import Ask, Placed
from bursar.rules.guard import TOOL_CALLS, TURNS, Guards, judge
from wire.talks import Human, Says, history


def placed(turns: int, depth: int, ambiguous: bool, repeats: int = 0) -> Placed:
    """Booked far more than the request shows, but for `repeats`."""
    talk = (Human("go"), *[Says("", (("f", {}, "nothing new", False),)) for _ in range(repeats)])
    told = history("openai_chat", talk)
    ask = Ask("tenant a", "c", 0, told)
    return Placed(
        "c", "window", turns, depth, depth, ambiguous, "", told.pairs, told.fresh_pairs, None, None, (), (), 0, None, ask, "c", 0, 0, 0,  # type: ignore[arg-type]
    )  # fmt: skip


def test_where_nobody_can_tell_whose_it_is_only_what_the_request_shows_counts() -> None:
    for turns, depth, limit in ((TURNS + 1, 0, "turns_max"), (0, TOOL_CALLS + 1, "tool_calls_max")):
        verdict, _, _ = judge(Guards(), Labels(), placed(turns, depth, False), 1, {})
        assert verdict is not None and verdict.limit == limit
        assert judge(Guards(), Labels(), placed(turns, depth, True), 1, {})[0] is None
    for ambiguous in (True, False):
        _, finding, stop = judge(Guards(), Labels(), placed(1, 6, ambiguous, repeats=6), 1, {})
        assert finding is not None and finding.rule == "same" and stop
