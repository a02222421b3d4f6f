"""The gate before go-live: whether spend is attributed, tiers are decided, budgets are set and a drill is fresh."""

from __future__ import annotations

from typing import NamedTuple

from ..domain.policy import Policy
from ..rules.audit import DAY_US, Audit, limits, per_cent
from ..rules.audit_guard import Drill, bounds


class Check(NamedTuple):
    """One line of the gate. `found` is how it is, `remedy` what makes it pass."""

    what: str
    passed: bool
    found: str
    remedy: str


def checks(made: Audit, policy: Policy, drill: Drill | None, now: int) -> tuple[Check, ...]:
    """All lines of the gate. What a ledger must show is judged on the audit's period."""
    rules, held = limits(policy.audit), bounds(policy)
    figures = {figure.name: figure.value or 0 for one in made.answers for figure in one.figures}
    nobody = figures.get("without_feature", 1_000_000)
    answers = {one.key: one for one in made.answers}
    saved = figures.get("saved_share", 0)
    age = None if drill is None else max(now - drill.ts, 0) // DAY_US
    fresh = drill is not None and drill.passed and age is not None and age <= rules.drill_days
    return (
        Check("attribution", bool(made.calls) and nobody <= rules.unattributed,
              f"{per_cent(nobody)} of the dollars name no feature" if made.calls else "no call was seen yet",
              "send x-bursar-feature and x-bursar-tenant, bind them to a key (bursar keys create), or give [labels] defaults"),
        Check("prices", not made.unpriced, f"{made.unpriced:,} tries have no price" if made.unpriced else "every try has one",
              "give each such model a [[price]] (bursar spend --by model --where price_status=unpriced)"),
        Check("tiers", bool(made.calls) and saved <= rules.tiers,
              f"{per_cent(saved)} of the dollars could move to cheaper tiers" if made.calls else "no call was seen yet",
              answers["tiers"].action),
        Check("budgets", bool(held.hard), f"{len(held.hard)} that stop", 'add a [[budget]] with hard = true, say scope = "tenant"'),
        Check("conversations", bool(held.dollars), "they have a limit" if held.dollars else "they have no limit",
              "set [guard] cost_max, or a [[budget]] with window = \"conversation\" (bursar audit has lines from your own p99)"),
        Check("tool calls", bool(held.depth), "they have a limit" if held.depth else "they have no limit",
              "set [guard] tool_calls_max (bursar audit has lines from your own p99)"),
        Check("drill", fresh, "never held" if age is None else f"{'passed' if drill and drill.passed else 'failed'} {age} days ago",
              "bursar drill: a limit that was never seen to trip is a hope"),
    )  # fmt: skip
