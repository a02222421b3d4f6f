"""A trained router for one feature: two models, a score, a threshold; how it was fitted, what it will do, when it refuses."""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import pairwise
from math import sqrt
from typing import Any, NamedTuple

from . import classify
from .familiar import BINS, Measure, Watch

EXAMPLES_LEAST = 200  # fewer graded requests say nothing about a threshold
FOLDS = 5
GRADE_KEPT = 0.97  # of the dearer model's average grade, unless a setting says otherwise
NOVEL_BEYOND = 0.995  # of the training's own requests are at most this novel
MAGIC = b"bursar router 1\n"


class Example(NamedTuple):
    """One graded request: what each model's answer was worth, from 0 to 1, and what it cost, in pico-dollars."""

    text: str
    cheap: float
    dear: float
    cheap_pico: int = 0
    dear_pico: int = 0


class Point(NamedTuple):
    """What routing does at one threshold, on requests that the score had not seen. `error`: the standard error of its grade
    against the part of the dearer model's that is to be kept, request by request."""

    threshold: float
    dear_share: float
    grade: float
    pico: int
    error: float = 0.0


class Report(NamedTuple):
    """How a router did on requests that it had not seen. `apgr`: the average share of the gap between the models that is won
    over all shares of dear calls, 0.5 by chance."""

    examples: int
    cheap_grade: float
    dear_grade: float
    chosen: Point
    all_dear_pico: int
    apgr: float
    curve: tuple[Point, ...] = ()


class Router(NamedTuple):
    feature: str
    cheap: str
    dear: str
    kept: float  # the part of the dearer model's grade that was to be kept
    threshold: float  # a score above it goes to the dearer model
    model: classify.Model
    measures: tuple[Measure, ...]  # of what `traits` gives
    trained: tuple[tuple[float, ...], ...]  # their histograms
    novel_beyond: float
    report: Report


class Verdict(NamedTuple):
    """`dear`: which of the two models; `refused`: why the score was not trusted, and the static tier serves."""

    dear: bool
    score: float
    refused: str = ""


class Unfit(NamedTuple):
    """Why no router could be made of these examples, and what now."""

    reason: str
    remedy: str


def fit(
    feature: str, cheap: str, dear: str, examples: Sequence[Example], kept: float = GRADE_KEPT,
    progress: Callable[[str], None] | None = None,
) -> Router | Unfit:  # fmt: skip
    """A router from graded requests. The threshold keeps `kept` of the dearer model's grade by scores that cross-validation
    gave and as good as certainly, or it is not made. The same examples in any order make the same folds."""
    if len(examples) < EXAMPLES_LEAST:
        return Unfit(f"{len(examples)} graded requests, at least {EXAMPLES_LEAST} are needed", "grade more of this feature's traffic")
    cheap_grade, dear_grade = (sum(grades) / len(examples) for grades in zip(*((e.cheap, e.dear) for e in examples), strict=True))
    all_cheap, all_dear = sum(e.cheap_pico for e in examples), sum(e.dear_pico for e in examples)
    pair = ((cheap, cheap_grade, all_cheap), (dear, dear_grade, all_dear))
    for (better, more, low), (worse, less, high) in (pair, pair[::-1]):
        if more >= less and high >= low and (better == cheap or high > low):  # a price is no grade
            return Unfit(
                f"{worse} is not better than {better} here (grades {less:.3f} and {more:.3f}) and not cheaper",
                f'send the whole feature to {better}: [[route]] when = {{feature = "{feature}"}}',
            )
    rows = [classify.row(example.text) for example in examples]
    uplift = [example.dear - example.cheap for example in examples]
    order = sorted(range(len(examples)), key=lambda n: blake2b(examples[n].text.encode(), salt=b"folds").digest())
    scores = [0.0] * len(examples)
    model, held = None, order[:0]
    for fold in range(FOLDS):
        if progress is not None:
            progress(f"fold {fold + 1} of {FOLDS}")
        held = order[fold::FOLDS]
        rest = [n for part in range(FOLDS) if part != fold for n in order[part::FOLDS]]
        model = classify.train([rows[n] for n in rest], [uplift[n] for n in rest])
        for n in held:
            scores[n] = model.score(rows[n])
    assert model is not None, "there are folds"
    curve = trace(scores, examples, kept)
    chosen = choose(curve, kept * dear_grade)
    if chosen is None or chosen.dear_share > 0.98:
        return Unfit(
            f"no threshold keeps {kept:.0%} of {dear}'s grade ({dear_grade:.3f}) and sends less than 98 % to it",
            "leave the feature on the dearer tier, or grade more traffic",
        )  # fmt: skip
    # The last fold's model is the one that serves: only of it is it known how it scores requests that it has not seen. One that
    # was trained on all of them would score new ones a little differently, and would look like a drift to its own watch.
    own = list(zip(*(traits(model, rows[n]) for n in held), strict=True))
    measures = tuple(Measure.of(values) for values in own)
    trained = tuple(_histogram(measure, values) for measure, values in zip(measures, own, strict=True))
    novelty = sorted(own[1])
    beyond = novelty[min(int(NOVEL_BEYOND * len(novelty)), len(novelty) - 1)]
    report = Report(
        len(examples), cheap_grade, dear_grade, chosen, all_dear, apgr(curve), (*curve[: -1 : max(len(curve) // 100, 1)], curve[-1])
    )
    return Router(feature, cheap, dear, kept, chosen.threshold, model, measures, trained, beyond, report)


def traits(model: classify.Model, row: classify.Row) -> tuple[float, ...]:
    """What a domain is known by, in the order of `familiar.TRAITS`: score, novelty, length, length of words. Of recorded exams
    each shows some subjects that the others do not."""
    return model.score(row), model.novelty(row), row.numbers[0], row.numbers[2]


def _histogram(measure: Measure, values: Sequence[float]) -> tuple[float, ...]:
    counts = [0.0] * BINS
    for value in values:
        counts[measure.bin(value)] += 1
    return tuple(counts)


def trace(scores: Sequence[float], examples: Sequence[Example], kept: float = 1.0) -> tuple[Point, ...]:
    """Every threshold there is, from none to all dear: what it costs and what it is worth."""
    order = sorted(range(len(examples)), key=lambda n: -scores[n])
    total = len(examples)
    grade, pico = sum(e.cheap for e in examples), sum(e.cheap_pico for e in examples)
    dear = sum(e.dear for e in examples)
    squares = sum((e.cheap - kept * e.dear) ** 2 for e in examples)

    def point(threshold: float, count: int) -> Point:
        apart = (grade - kept * dear) / total
        return Point(threshold, count / total, grade / total, pico, sqrt(max(squares / total - apart * apart, 0.0) / total))

    points = [point(max(scores, default=0.0), 0)]
    for count, n in enumerate(order, 1):
        example = examples[n]
        grade += example.dear - example.cheap
        pico += example.dear_pico - example.cheap_pico
        squares += ((1 - kept) * example.dear) ** 2 - (example.cheap - kept * example.dear) ** 2
        below = scores[order[count]] if count < total else scores[n] - 1.0
        if below < scores[n]:  # equal scores cannot be told apart
            points.append(point(below, count))
    return tuple(points)


SURE = 1.645  # standard errors: one time in twenty the part that is kept is less than it should be


def choose(curve: Sequence[Point], least: float, sure: float = SURE) -> Point | None:
    """The cheapest point whose grade is as good as certainly at least that; where costs are not known, the one with the fewest
    dear calls. None when there is no such point."""
    good = [point for point in curve if point.grade - sure * point.error >= least]
    return min(good, key=lambda point: (point.pico, point.dear_share), default=None)


def apgr(curve: Sequence[Point]) -> float:
    """RouteLLM's average performance gap recovered: the trapezoids over the shares 0, 10, … 100 % of dear calls."""
    low, high = curve[0].grade, curve[-1].grade
    if high == low:
        return 0.5
    won = [(at_share(curve, n / 10) - low) / (high - low) for n in range(11)]
    return sum((a + b) / 2 for a, b in pairwise(won)) / 10


def at_share(curve: Sequence[Point], share: float) -> float:
    """The grade at the last point that sends at most this share to the dearer model."""
    return [point for point in curve if point.dear_share <= share + 1e-9][-1].grade


def share_for(curve: Sequence[Point], won: float) -> float:
    """RouteLLM's CPT: the smallest share of dear calls, in per cent, that recovers this much of the gap (0.5 for CPT50)."""
    low, high = curve[0].grade, curve[-1].grade
    return 100 * min((p.dear_share for p in curve if p.grade >= low + won * (high - low)), default=1.0)


def judge(router: Router, watch: Watch, text: str) -> Verdict:
    """Which of the two models for this text. Every request is looked at, also while none is served, or the watch would never
    learn that the traffic is familiar."""
    found = traits(router.model, classify.row(text))
    watch.see([measure.bin(value) for measure, value in zip(router.measures, found, strict=True)])
    strange = watch.strange()
    if not strange and found[1] > router.novel_beyond:
        strange = f"{found[1]:.0%} of its words were never seen in training"
    return Verdict(found[0] > router.threshold, found[0], strange)


class Held(NamedTuple):
    """A router on graded requests that it has not seen. `refused`: why it would not serve them; `short`: it keeps less than it
    promised, and chance does not explain it."""

    curve: tuple[Point, ...]
    chosen: Point
    refused: str
    short: bool


def hold(router: Router, examples: Sequence[Example]) -> Held:
    """The router against other grades."""
    watch = Watch(router.trained)
    verdicts = [judge(router, watch, example.text) for example in examples]
    curve = trace([verdict.score for verdict in verdicts], examples, router.kept)
    chosen = next(point for point in curve if point.threshold <= router.threshold or point is curve[-1])
    least = router.kept * curve[-1].grade
    return Held(curve, chosen, verdicts[-1].refused, chosen.grade + SURE * chosen.error < least)


def dump(router: Router) -> bytes:
    """The router as a file's bytes: a line, a JSON header, two arrays, compressed, with a checksum."""
    model = router.model
    header = {
        **{name: value for name, value in router._asdict().items() if name not in ("model", "report")},
        "report": {**router.report._asdict(), "chosen": list(router.report.chosen), "curve": [list(p) for p in router.report.curve]},
        "means": model.means, "spreads": model.spreads, "numeric": model.numeric, "bias": model.bias, "rows": model.rows,
    }  # fmt: skip
    told = json.dumps(header).encode()
    body = zlib.compress(len(told).to_bytes(4, "big") + told + _little(model.weights) + _little(model.rare))
    return MAGIC + zlib.crc32(body).to_bytes(4, "big") + body


def load(data: bytes) -> Router:
    """ValueError with what is wrong when the bytes are not a router of this version."""
    at = len(MAGIC) + 4
    if not data.startswith(MAGIC) or zlib.crc32(data[at:]).to_bytes(4, "big") != data[len(MAGIC) : at]:
        raise ValueError("not a router of this version, or a damaged one: run `bursar route train` again")
    plain = zlib.decompress(data[at:])
    size = int.from_bytes(plain[:4], "big")
    header: dict[str, Any] = json.loads(plain[4 : 4 + size])
    half = 4 * classify.BUCKETS
    arrays = plain[4 + size :]
    model = classify.Model(
        _array(arrays[:half]), _array(arrays[half:]), tuple(header["means"]), tuple(header["spreads"]), tuple(header["numeric"]),
        header["bias"], header["rows"],
    )  # fmt: skip
    told: dict[str, Any] = header["report"]
    report = Report(
        told["examples"], told["cheap_grade"], told["dear_grade"], Point(*told["chosen"]), told["all_dear_pico"], told["apgr"],
        tuple(Point(*point) for point in told["curve"]),
    )  # fmt: skip
    return Router(
        header["feature"], header["cheap"], header["dear"], header["kept"], header["threshold"], model,
        tuple(Measure(tuple(cuts)) for (cuts,) in header["measures"]), tuple(tuple(counts) for counts in header["trained"]),
        header["novel_beyond"], report,
    )  # fmt: skip


def _little(values: array[float]) -> bytes:
    swapped = array("f", values)
    if _BIG:
        swapped.byteswap()
    return swapped.tobytes()


def _array(data: bytes) -> array[float]:
    values = array("f", data)
    if _BIG:
        values.byteswap()
    return values


_BIG = array("H", b"\x00\x01")[0] == 1  # the file is little-endian on every machine
