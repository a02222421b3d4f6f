"""What the own API answers about money: spend, calls, conversations and labels, as the commands of the same names do with --json."""

from __future__ import annotations

import re
from typing import Any

from ...domain.labels import CHARGEABLE
from ...domain.money import plain, usd
from ...rules.full import KEYS
from ...rules.naming import NoName, readable
from ...stores.query import GRAINS, LABEL, Filter, Query
from .. import cli_calls, cli_conversations, cli_full, cli_spend, naming, periods
from .. import conversations as talk
from ..cli_common import dimension
from ..web.shelf import ask, dollars
from .asked import TIMES, Asked, Turned, bad, missing, refuse

CALLS_MAX = 2_000  # every column of a row is some 3 KB of JSON
VALUES_MAX = 10_000
NAMES_MAX = 200

Answer = dict[str, Any]

SPEND = {
    "by": "columns or labels, with commas: tenant,operation, model, label:team",
    "grain": "a line per hour, day, week or month (UTC) as well",
    "top": "the dearest N lines, the rest summed",
    "full": "1: one number per customer, its own cost and its share of what is nobody's",
    "key": "how full divides shared cost: cost, calls or tokens",
    **TIMES,
}


def spend(asked: Asked) -> Answer:
    """What cost us that: the document of `bursar spend --json`."""
    period, where = asked.period(), asked.filters()
    by, grain, key = asked.text("by"), asked.text("grain"), asked.text("key")
    top = asked.number("top", 0, 1, 10_000) if "top" in asked.given else None
    names = cli_spend.names_of(by if "by" in asked.given else None)
    if grain and grain not in GRAINS:
        raise bad(f"grain={grain!r}", f"one of {', '.join(GRAINS)}")
    if key and key not in KEYS:
        raise bad(f"key={key!r}", f"one of {', '.join(KEYS)}")
    loaded = asked.flag("full")
    if (key and not loaded) or (loaded and (grain or names not in ([], ["tenant"]))):
        raise bad("full is asked by tenant or by nothing, without grain; key belongs to it")
    with asked.shelf.open() as reader:
        if loaded:
            return cli_full.record(cli_full.look(reader, where, period, key or None, asked.shelf.policy()[0].spend), period)
        return cli_spend.record(cli_spend.ask(reader, names, where, period, grain=grain, top=top), period)


CALLS = {
    "limit": f"at most so many rows: 100, up to {CALLS_MAX:,}",
    "after": "`next` of the answer before: go on there",
    **TIMES,
}


def calls(asked: Asked) -> Answer:
    """The tries themselves, newest first, every column: the rows of `bursar calls --json`. `next` leads to the rows after them."""
    limit, after = asked.number("limit", 100, 1, CALLS_MAX), asked.text("after")
    below = None
    if after:
        found = re.fullmatch(r"([0-9]{1,17})\.(.{1,500})", after)
        if not found:
            raise bad(f"after={after[:40]!r} is no `next` of an answer")
        below = int(found[1]), found[2]
    period, where = asked.period(), asked.filters()
    with asked.shelf.open() as reader:
        rows = cli_calls.newest(reader, period, where, limit, below)
        skipped = list(reader.skipped)
    last = rows[-1] if len(rows) == limit else None
    going_on = None if last is None else f"{periods.us(last['ts'])}.{last['id']}"
    return {"rows": [cli_calls.program_row(row) for row in rows], "limit": limit, "next": going_on, "skipped_segments": skipped}


CONVERSATIONS = {
    "top": "the dearest N as rows: 5, up to 10,000",
    "human_cost": "dollars that a person costs who does one instead (default: the policy's)",
    "resolved": "value of the label outcome that counts as resolved; repeat for more",
    **TIMES,
}


def conversations(asked: Asked) -> Answer:
    """How conversations are distributed, what a turn costs, and the dearest: the document of `bursar conversations --json`."""
    period, where, said = asked.period(), asked.filters(), asked.shelf.policy()[0].spend
    cost = asked.text("human_cost") or said.human_cost
    resolved = asked.texts("resolved") or tuple(said.resolved)
    top = asked.number("top", 5, 0, 10_000)
    with asked.shelf.open() as reader:
        found = talk.overview(reader, where, period, top=top, human_cost=usd(cost) if cost else None, resolved=resolved)
        skipped = list(reader.skipped)
    return cli_conversations.document(found, period, skipped)


def conversation(asked: Asked) -> Answer:
    """One conversation try by try: the document of `bursar conversation ID --json`."""
    id = asked.path["id"]
    with asked.shelf.open() as reader:
        seen = not asked.caller.bound or talk.whole(reader, id, asked.caller.bound)
        found = talk.timeline(reader, id) if seen else None
    if found is None:
        raise missing(f"conversation {id[:200]!r}")
    return {
        "rows": [cli_conversations.step_record(step) for step in found.steps], **cli_conversations.timeline_record(found),
        "currency": "USD",
    }  # fmt: skip


LABELS = {
    "name": "a label or column, for the values it has; without it, the names that there are",
    "q": "only values that begin so, in any case",
    "limit": f"at most so many values: 100, up to {VALUES_MAX:,}",
    **TIMES,
}


def labels(asked: Asked) -> Answer:
    """The names of labels, and what share of the cost carries each; or the values of one, dearest first."""
    period, where, name = asked.period(), asked.filters(), asked.text("name")
    span = (period.since, period.until)
    with asked.shelf.open() as reader:
        if name:
            column, typed = dimension(name), asked.text("q").lower()
            limit = asked.number("limit", 100, 1, VALUES_MAX)
            found = reader.query(Query(("cost", "calls"), (column,), where, *span, top=VALUES_MAX))
            fits = [row for row in found if row[column] not in (None, "") and str(row[column]).lower().startswith(typed)]
            rows = [{"value": row[column], "cost": plain(dollars(row["cost"])), "calls": row["calls"]} for row in fits[:limit]]
            return {"rows": rows, "name": name, "currency": "USD"}
        free = [
            row["name"] for row in ask(
                reader, ("labels",), f"SELECT DISTINCT unnest(map_keys(labels)) AS name FROM {{rows}} ORDER BY name LIMIT {NAMES_MAX}",
                where, *span,
            )
        ]  # fmt: skip
        made: list[Answer] = []
        for label, column in [*[(one, one) for one in CHARGEABLE], *[(one, LABEL + one) for one in free]]:
            (sums,) = reader.query(Query(("cost", "calls"), (), (*where, Filter(column, ("",), True)), *span))
            made.append({"name": label, "free": column != label, "cost": plain(dollars(sums["cost"])), "calls": sums["calls"]})
        (whole,) = reader.query(Query(("cost", "calls"), (), where, *span))
    return {"rows": made, "cost": plain(dollars(whole["cost"])), "calls": whole["calls"], "currency": "USD"}


NAMING = {
    "names": 'what the rows are to say: {"feature": "triage"}; an empty value takes a name away',
    "replace": "true: also rows that say something else under that name",
    "dry_run": "true: say what would be named, and name nothing",
    "all": "true: every row of the ledger, where no where and no time narrows it",
    **TIMES,
}


def name_rows(asked: Asked) -> Answer:
    """Names past rows, as `bursar label` does: each is taken back under its old labels and booked under the new ones."""
    said: dict[str, str] = {}
    for text in asked.texts("names"):
        name, _, value = text.partition("=")
        said[name] = value
    if not said:
        raise bad("nothing to name", 'write "names": {"feature": "triage"}')
    said = readable(said)
    theirs = {one.name.removeprefix(LABEL) for one in asked.caller.bound}
    if theirs & said.keys():
        told = f"{', '.join(theirs & said.keys())} is what this key is bounded to"
        raise Turned(refuse("not_allowed", told, "ask an operator who is not"))
    period, pairs, replace, dry_run = asked.period(), asked.pairs(), asked.flag("replace"), asked.flag("dry_run")
    if not (pairs or period.since or period.until or asked.flag("all")):
        raise bad("that names every row of the ledger", 'narrow it with where or since, or say "all": true')
    where = asked.filters()
    with asked.shelf.open() as reader:
        found = naming.preview(naming.rows(reader, where, period), said)
        if not replace and (why := naming.overlap(found, naming.pinned(pairs))):
            raise NoName(f"{why}, or overrule them with replace")
        done = 0
        if found.rows and not dry_run:
            done = naming.book(asked.shelf.place.file, reader, naming.rows(reader, where, period), said, lambda _: None)
    return naming.record(found, said, dry_run, done)
