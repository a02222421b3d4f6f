"""What makes the money less: questions four and five of the audit, tiers and caches. Pure; units as in rules/audit.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..domain.money import show
from ..domain.policy import Cache, Route, Tiers
from .audit import GOOD, QUESTIONS, WATCH, Answer, Figure, Limits, Line, Scale, against, per_cent, quote, share

ONE_MODEL = 900_000  # millionths of the dollars on one model: then it is used for everything

# -- 4: tiers ----------------------------------------------------------------------------------------------------------


class Move(NamedTuple):
    """Work that looks like a cheaper tier's: what it cost, and what the same tokens cost at that tier's model."""

    feature: str
    model: str
    to: str
    tier: str
    calls: int
    cost: int
    then: int
    why: str


class Used(NamedTuple):
    """Dollars by model, the dearest first, and what could move."""

    models: tuple[Line, ...]
    cost: int
    moves: tuple[Move, ...]
    tiers: Tiers = Tiers()  # as the policy has them
    routes: tuple[Route, ...] = ()


def tiers(used: Used, rules: Limits, per: Scale) -> Answer:
    saved = sum(move.cost - move.then for move in used.moves)
    top = used.models[0] if used.models else Line("model", "", 0, 0)
    verdict = against(share(saved, used.cost), rules.tiers)
    if verdict == GOOD and share(top.cost, used.cost) > ONE_MODEL:
        verdict = WATCH
    sentence = f"{top.name} took {per_cent(share(top.cost, used.cost))} of the dollars, of {len(used.models)} models."
    if used.moves:
        saves = f"{show(saved)} less there, at most"
        sentence += f" {len(used.moves)} kind{'s' if len(used.moves) > 1 else ''} of work could do with less: {saves}."
    figures = (
        Figure("models", len(used.models), "count", "models"),
        Figure("dearest", share(top.cost, used.cost), "share", f"of it on {top.name}"),
        Figure("saved", saved, "usd", "less, if all of this work moved"),
        Figure("saved_share", share(saved, used.cost), "share", "of the bill"),
    )
    lines = used.models[:5] + tuple(
        Line(
            "move", f"{one.feature or '(unnamed)'}: {one.model} -> {one.to}", one.cost, one.calls, f"{show(one.then)} there; {one.why}"
        )
        for one in used.moves
    )
    action, paste, commands = "nothing to do: work is where it belongs by its shape", "", ()
    if used.moves:
        best = max(used.moves, key=lambda one: one.cost - one.then)
        name = best.feature or "that work"
        decided = {route.when.get("feature", ""): route for route in used.routes}
        if best.feature in decided:
            action = f"its route is in {decided[best.feature].mode}: see what it keeps, and turn it on where answers stay good"
        else:
            action = f"let {name} run in shadow as {best.tier} work, and grade a sample; half of such promises hold"
        commands = ("bursar savings", f"bursar route train --feature {best.feature or 'NAME'} GRADED.jsonl")
        paste = "\n\n".join(_tiers(used, [move for move in used.moves if move.feature and move.feature not in decided]))
    how = (
        "the shape of each feature's calls (length of answers, tools, depth, failures) says which tier it looks like; all of its "
        "tokens at that tier's price: an upper bound, since published routers save a quarter of what is possible"
    )
    return Answer(4, "tiers", QUESTIONS["tiers"], verdict, sentence, figures, lines, per.month(saved), how, action, paste, commands)


def _tiers(used: Used, moves: Sequence[Move]) -> list[str]:
    """The tables that send the work there, in shadow."""
    if not moves:
        return []
    made: list[str] = []
    if used.tiers == Tiers():
        names = {tier: sorted({move.to for move in moves if move.tier == tier}) for tier in ("cheap", "standard")}
        made.append("\n".join(["[tiers]", *[f"{tier} = [{', '.join(map(quote, those))}]" for tier, those in names.items() if those]]))
    seen: set[str] = set()
    for move in moves:
        if move.feature not in seen:
            seen.add(move.feature)
            made.append(f'[[route]]\nwhen = {{feature = {quote(move.feature)}}}\ntier = "{move.tier}"\nmode = "shadow"')
    return made


# -- 5: caches ---------------------------------------------------------------------------------------------------------


class Cached(NamedTuple):
    """What caches did and would have done. Dollars of the period; `latest`: from so many seconds at its end, which stand for all of
    it; 0: from the whole."""

    calls: int
    answered: int  # calls that our reply cache answered
    kept: int  # dollars it kept
    read_share: int  # of input tokens that the provider's prompt cache gave
    repeats: tuple[Line, ...]  # asked and answered before, byte for byte, on the same day
    vectors: tuple[Line, ...]  # embedded before, byte for byte
    steady: int  # dollars for embedding as much as the day before: the same documents, or as many new ones, and nobody knows
    prompts: tuple[Line, ...]  # what marking prompts for the provider's cache would have kept, net, by feature
    latest: int


def cache(cached: Cached, cost: int, rules: Limits, per: Scale, table: Cache) -> Answer:
    """`table`: as the policy has it."""
    again, marked = sum(line.cost for line in (*cached.repeats, *cached.vectors)), sum(line.cost for line in cached.prompts)
    verdict = against(share(again + marked, cost), rules.cache)
    reply = f"answers {per_cent(share(cached.answered, cached.calls))} of the calls" if cached.answered else "answers nothing"
    sentence = f"The reply cache {reply}; {per_cent(cached.read_share)} of input tokens came from the providers' prompt caches."
    if again or marked:
        sentence += f" {show(again)} was asked twice, {show(marked)} was read anew that had just been read."
    if cached.steady:
        sentence += f" {show(cached.steady)} of embedding is as on the day before: the same documents?"
    figures = (
        Figure("answered", share(cached.answered, cached.calls), "share", "of calls answered by the reply cache"),
        Figure("kept", cached.kept, "usd", "that it kept"),
        Figure("prompt_cache", cached.read_share, "share", "of input tokens from the providers' prompt caches"),
        Figure("repeats", again, "usd", "for the same request again within a day"),
        Figure("embedded", cached.steady, "usd", "for embedding as much as the day before"),
        Figure("prompts", marked, "usd", "that marked prompts would have kept, net of writing them"),
    )  # fmt: skip
    action, commands = "nothing to do: what repeats is cached", ()
    again_of = (("exact", cached.repeats), ("embeddings", cached.vectors or cached.steady))
    wanted = [f"{name} = true" for name, lines in again_of if lines]
    paste = "\n".join(["[cache]", *wanted]) if wanted and table == Cache() and verdict != GOOD else ""
    if marked > again and marked:
        best = max(cached.prompts, key=lambda line: line.cost)
        action = f"mark the prompts of {best.name} for the provider's cache (cache_control): {show(per.month(best.cost))} a month"
        commands = (f"bursar spend --by model --where feature={best.name}",)
    elif again:
        best = max((*cached.repeats, *cached.vectors), key=lambda line: line.cost)
        action = f"let the reply cache answer what {best.name} asks again: {show(per.month(best.cost))} a month"
        commands = (f"bursar spend --by request_hash --top 10 --where feature={best.name}",)
    how = (
        "asked twice is the same bytes of the same tenant to the same model on one day (UTC), answered before; read anew is a call "
        "within five minutes of the one before it in its conversation, whose beginning could have been read at the cache's price, "
        "less what writing it would have cost"
    )
    if cached.latest:
        how += f"; from the latest {max(cached.latest // 3600, 1):,} hours, which stand for the whole period"
    lines = (*cached.repeats, *cached.vectors, *cached.prompts)
    return Answer(
        5, "cache", QUESTIONS["cache"], verdict, sentence, figures, lines, per.month(again + marked), how, action, paste, commands
    )
