"""Why a call was made: the operation and cause that nobody said, with the evidence and how sure it is.

A call has one operation. What was said by a label stands; else, in this order: the SDK's own retry, the same messages again after
a failure (by the same model a re-ask, by another one the client's own fallback), a repair of output that would not parse, a tool
that failed and is called again. The purpose (eval, background, …) is kept beside it, so that both partitions of a bill foot.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from ..domain.call import Asked
from ..domain.history import BROKEN, JSON, Failed, History, Pairs, Reply
from ..domain.labels import PURPOSES, Labels
from ..domain.shape import Shape, replace
from ..domain.thread import CUT, FAILED, MALFORMED, OUTCOMES, Again, Placed
from .loop import Finding

REASK_US = 600_000_000  # the same request within ten minutes of its failure is the same wish

# Per cent. An error flag is somebody's word; a text is read; a result that is only unlike the others may be meant so.
SURE: Mapping[str, int] = {
    "flag": 95, "exception": 90, "timeout": 90, "http": 90, "error": 85, "exit_code": 70, "malformed": 60, "empty": 55,
}  # fmt: skip
OWN_SIGN = 90


class Cause(Shape, frozen=True, gc=False):
    """`evidence` is what an operator needs to check it: plain words and numbers, stored with the row."""

    kind: str = "first"  # first | retry | fallback
    operation: str = "primary"
    purpose: str = "primary"
    cause: str = ""
    confidence: int = 100
    evidence: tuple[tuple[str, str | int], ...] = ()
    failed: tuple[Failed, ...] = ()  # tools whose failure may be why: what the reply calls decides


def infer(
    retries: bytes, asked: Asked, labels: Labels, placed: Placed | None, key: str = "", ci: str = "", raised: tuple[str, ...] = ()
) -> Cause:
    """What is known before the call goes out. `retries` is how often an SDK says it has tried before; `ci` names the build
    service whose environment a wrapped client runs in; `raised`: tools that have failed in it since its last call, whatever the
    messages make of that."""
    said = labels.operation
    if said or asked.embedding or key or ci:
        base = _purpose(asked, labels, key, ci)
    else:
        base = PRIMARY
    if said:
        if said in ("retry", "fallback"):
            return replace(base, kind=said, operation=said, cause="label", confidence=100)
        if said == "primary":
            return base
    if retries != b"0" and retries.isdigit():
        evidence: tuple[tuple[str, str | int], ...] = (("retry_count", int(retries[:9])),)
        if placed is not None and placed.again is not None:
            evidence += (("of", placed.again.call),)
        return replace(base, kind="retry", operation="retry", cause="sdk_retry", confidence=100, evidence=evidence)
    history = asked.history
    if placed is not None:
        again = _again(base, asked, placed.again) if placed.again is not None else None
        if again is not None:
            return again
        after = placed.after
        if history is not None and (history.repair or (after is not None and after.outcome == MALFORMED)):
            repair = _repair(base, history, asked.json_demanded, after)
            if repair is not None:
                return repair
        failed = placed.failed
    else:
        failed = history.failed if history is not None else ()
    if not failed and raised and placed is not None and placed.fresh_pairs:
        failed = tuple([Failed(name, "exception", 0) for name in raised if name in placed.pairs.names[-placed.fresh_pairs :]])
    if failed:
        first = next((one for one in failed if not one.doubt), None)
        if first is None:
            return replace(base, failed=failed)
        return replace(base,
            operation="retry", cause=f"tool:{first.tool[:64]}", confidence=SURE.get(first.why, OWN_SIGN) - 30,
            evidence=(("why", first.why), ("bytes", first.weight)), failed=failed,
        )  # fmt: skip
    return base


PRIMARY = Cause()


def _purpose(asked: Asked, labels: Labels, key: str, ci: str) -> Cause:
    word = labels.operation
    if asked.embedding and word in ("", "embedding"):
        return Cause("first", "embedding", "embedding")
    if word == "primary":
        return PRIMARY
    if word in PURPOSES:
        source = next((who for name, who in labels.sources if name == "operation"), "label")
        return Cause("first", word, word, evidence=(("by", source),))
    if key and _of_evals(key):
        return Cause("first", "eval", "eval", "", 70, (("by", "key"), ("key", key[:64])))
    if ci:
        return Cause("first", "eval", "eval", "", 60, (("by", "ci"), ("ci", ci[:64])))
    return PRIMARY


@lru_cache(maxsize=1024)
def _of_evals(key: str) -> bool:
    words = key.lower().replace("_", "-").split("-")
    return "eval" in words or "evals" in words


def _again(base: Cause, asked: Asked, again: Again) -> Cause | None:
    """The same messages, after they had failed."""
    if again.outcome not in (FAILED, CUT, MALFORMED) or again.gap_us > REASK_US:
        return None
    word = again.why or OUTCOMES[again.outcome]
    evidence: tuple[tuple[str, str | int], ...] = (("of", again.call), ("after", word), ("gap_ms", again.gap_us // 1000))
    if again.model and again.model != asked.model:
        return replace(
            base,
            kind="fallback",
            operation="fallback",
            cause=f"{word}:{again.model[:80]}",
            confidence=90,
            evidence=(("by", "client"), *evidence),
        )
    if again.outcome == MALFORMED:
        return replace(base, kind="retry", operation="retry", cause="repair", confidence=90, evidence=evidence)
    return replace(base,
        kind="retry", operation="retry", cause="reask", confidence=95 if again.body else 85,
        evidence=(*evidence, ("same_bytes", int(again.body))),
    )  # fmt: skip


def _repair(base: Cause, history: History, json_demanded: bool, after: Again | None) -> Cause | None:
    """Somebody answers output that would not parse."""
    if not history.fresh_human:
        return None
    if after is not None and after.outcome == MALFORMED:
        sure, sign = 95, "the reply before could not be used"
    elif json_demanded and history.replied and history.said_shape != JSON and history.repair:
        sure, sign = 85, "JSON is demanded, the reply before is none"
    elif history.said_shape == BROKEN and history.repair:
        sure, sign = 75, "the reply before is broken JSON"
    else:
        return None
    evidence: tuple[tuple[str, str | int], ...] = (("sign", sign),)
    if after is not None:
        evidence += (("of", after.call),)
    return replace(base, kind="retry", operation="retry", cause="repair", confidence=sure, evidence=evidence)


def looped(cause: Cause, finding: Finding, pairs: Pairs, stop: bool) -> Cause:
    """The same for a call that is part of a loop: it has no other cause, then it is the loop's. Where half of what went round were
    a tool's failures, asking again was for those, and is charged to the tool; the call that goes on from there is plain work.
    What is no loop to `stop` yet is one to charge where call and result come again to the letter, and are no failure's
    (docs/explanation/loops.md)."""
    if cause.cause:
        return cause
    if not stop and (finding.rule not in ("same", "cycle") or any(pairs.errors[-finding.times * len(finding.tools) :])):
        return cause
    if finding.rule == "stale" and 2 * sum(map(bool, pairs.errors[-finding.times :])) >= finding.times:
        return cause
    return replace(cause, cause="loop", confidence=90 if stop else 70)


def settled(cause: Cause, placed: Placed | None, reply: Reply | None) -> Cause:
    """The same when the reply is known: a tool that failed and is called again is retried; another tool, or a word to the
    person, is a switch, which the tool caused but which is no waste. Also within three calls of the same turn."""
    if cause.failed:
        if reply is None:
            return cause
        first = next((one for one in cause.failed if not one.doubt), None)
        called = {use.name for use in reply.uses}
        same = {use.digest for use in reply.uses}
        again = next((one for one in cause.failed if (one.doubt in same if one.doubt else one.tool in called)), None)
        if again is not None:
            return replace(cause,
                operation="retry", cause=f"tool:{again.tool[:64]}", confidence=SURE.get(again.why, OWN_SIGN),
                evidence=(("class", "retry"), ("why", again.why), ("bytes", again.weight)),
            )  # fmt: skip
        if first is not None:
            return replace(cause,
                operation=cause.purpose, cause=f"switch:{first.tool[:64]}", confidence=SURE.get(first.why, OWN_SIGN),
                evidence=(("class", "switch"), ("why", first.why), ("bytes", first.weight)),
            )  # fmt: skip
    if reply is None or not reply.uses or placed is None or cause.cause:
        return cause
    for one in placed.failing:
        tool, why = one.tool, one.why
        if any(use.name == tool for use in reply.uses):
            evidence = (("class", "retry"), ("why", why), ("calls_since", one.calls))
            return replace(
                cause, operation="retry", cause=f"tool:{tool[:64]}", confidence=SURE.get(why, OWN_SIGN) - 10, evidence=evidence
            )
    return cause
