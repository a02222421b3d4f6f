"""What the controls do on recorded traffic: `python bench/savings.py [compact|lost|route|cache]`. Needs the recorded material
(BURSAR_DATA, or ../shared/data). Nothing is random but what a written seed makes; no model is called. Some ten minutes."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import recorded_histories as recorded
from bursar.rules import classify, router
from bursar.rules.certify import Certificate
from bursar.rules.compact import AGGRESSIVE, Rates, Setting
from bursar.rules.near import Index, fits
from bursar.rules.near import Setting as Near
from bursar.rules.router import Example, Router
from recorded_histories import ANTHROPIC, CHEAP, HOUR, OPENAI_10, OPENAI_25, UNCACHED, Run

DATA = Path(os.environ.get("BURSAR_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
LAST_ONLY = AGGRESSIVE._replace(keep_calls=1)
SETTINGS = {"default (3 turns, 10 calls)": Setting(), "aggressive (2 turns, 2 calls)": AGGRESSIVE, "the last call only": LAST_ONLY}


def lines(name: str) -> list[dict[str, Any]]:
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# --- compaction ---


def compaction() -> None:
    """Change of cost against the full history, in per cent; the worst flow beside it."""
    sets: dict[str, list[Run]] = {
        "agent-swe, java": [run for run in recorded.swe(DATA) if run.flow.startswith("multi")],
        "agent-swe, all": list(recorded.swe(DATA)),
        "agent-swe, java, history only": [run for run in recorded.swe(DATA, base=False) if run.flow.startswith("multi")],
        "agent-swe, all, history only": list(recorded.swe(DATA, base=False)),
        "agent-vorflux": list(recorded.vorflux(DATA)),
        "agent-tau": list(recorded.tau(DATA)),
        "agent-claude-code-tau2": list(recorded.claude_code(DATA)),
    }
    print("\nAnthropic, five minutes: history that is read again, as a share of the cost (nothing can save more than that)")
    for name, runs in sets.items():
        print(f"  {name:34} {again(runs, ANTHROPIC):5.1f} %")
    prices: dict[str, tuple[Rates, float]] = {
        "Anthropic 5 min": (ANTHROPIC, 300.0), "Anthropic 1 h": (HOUR, 3_600.0), "OpenAI .25": (OPENAI_25, 300.0), "OpenAI .1": (OPENAI_10, 300.0),
        "no prompt cache": (UNCACHED, 300.0),
    }  # fmt: skip
    for setting_name, base in SETTINGS.items():
        for kind, setting in (("elision", base), ("and summaries every 8", base._replace(summarise_every=8))):
            print(f"\n{setting_name}, {kind}")
            for name, runs in sets.items():
                cells: list[str] = []
                for rates, ttl_s in prices.values():
                    flows = recorded.by_flow(runs, setting, rates, CHEAP, ttl_s)
                    cells.append(f"{recorded.total(flows).change:+6.1f} ({max(done.change for done in flows.values()):+.2f})")
                print(f"  {name:34}", "  ".join(f"{cell:>16}" for cell in cells), flush=True)
    print(" " * 36 + "  ".join(f"{name:>16}" for name in prices))
    print("\nno prompt cache, runs of 20 calls and more")
    for setting_name, base in SETTINGS.items():
        for kind, setting in (("elision", base), ("and summaries every 8", base._replace(summarise_every=8))):
            for name in ("agent-swe, all", "agent-swe, all, history only", "agent-vorflux"):
                runs = [run for run in sets[name] if sum(said.call for said in run.said) >= 20]
                print(f"  {setting_name:30} {kind:22} {name:30} {recorded.total(recorded.by_flow(runs, setting, UNCACHED, CHEAP)).change:+.1f} %")


def again(runs: list[Run], rates: Rates) -> float:
    history = total = 0.0
    for run in runs:
        first = before = 0
        for outline, at in recorded.outlines(run.said):
            size = outline.messages[-1].end if outline.messages else 0
            first = first or size
            total += rates.read * before + rates.write * (size - before) + rates.output * run.said[at].size
            history += rates.read * max(before - first, 0)
            before = size
    return 100 * history / total


def lost() -> None:
    """Values in later calls' arguments that the full history shows and the shortened one does not."""
    tau = [run for run in recorded.tau(DATA) if any(said.role == "result" and len(said.text) > 1 for said in run.said)]
    code = list(recorded.vorflux_text(DATA, 90))[:25]
    print("\nlost references: customer service (228 conversations, values), coding (25 runs, words of commands)")
    for name, setting in SETTINGS.items():
        for what, runs in (("customer service", tau), ("coding", code)):
            shown, gone = recorded.lost(runs, setting)
            print(f"  {name:30} {what:18} {gone:4} of {shown}: {100 * gone / shown:.2f} %", flush=True)


# --- tiers ---


def told(name: str, curve: tuple[router.Point, ...]) -> str:
    point = router.choose(curve, 0.95 * curve[-1].grade, 0.0)
    assert point is not None
    return (
        f"  {name:34} APGR {router.apgr(curve):.3f}  CPT50 {router.share_for(curve, 0.5):4.1f}  CPT80 {router.share_for(curve, 0.8):4.1f}"
        f"  strong calls saved at 95 %: {100 * (1 - point.dear_share):4.1f} %"
    )


def tiers() -> None:
    items = lines("router-routellm/items.jsonl.gz")
    print("\nRouteLLM's protocol, seeds 1 to 3 (published: MMLU .60, 45 %; GSM8K 35 %)")
    for seed in (1, 2, 3):
        mmlu = [item for item in items if item["set"] == "mmlu"]
        Random(seed).shuffle(mmlu)
        for size in (500, 1_500, 5_000):
            model = classify.train([classify.row(i["prompt"]) for i in mmlu[:size]], [float(i["strong_correct"]) - i["weak_correct"] for i in mmlu[:size]])
            rest = [Example(i["prompt"], float(i["weak_correct"]), float(i["strong_correct"])) for i in mmlu[size:]]
            print(told(f"MMLU, {size:,} grades, seed {seed}", router.trace([model.score(classify.row(e.text)) for e in rest], rest)), flush=True)
        gsm = [item for item in items if item["set"] == "gsm8k"]
        Random(seed).shuffle(gsm)
        rows, scores = [classify.row(i["prompt"]) for i in gsm], [0.0] * len(gsm)
        for fold in range(5):
            held = [n for n in range(len(gsm)) if n % 5 != fold]
            model = classify.train([rows[n] for n in held], [float(gsm[n]["strong_correct"]) - gsm[n]["weak_correct"] for n in held])
            for n in range(fold, len(gsm), 5):
                scores[n] = model.score(rows[n])
        print(told(f"GSM8K, five folds, seed {seed}", router.trace(scores, [Example("", float(i["weak_correct"]), float(i["strong_correct"])) for i in gsm])), flush=True)
    qwen()


def qwen() -> None:
    """Prompts are not recorded: the router sees data set, task and length. Half for training, half to look at, and the other way."""
    by: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    with gzip.open(DATA / "router-qwen35/predictions.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            by[row["canonical_id"]][row["strategy"]] = row
    print("\nrouter-qwen35: accuracy, and cost saved against always strong")
    strong = sum(float(rows["always_strong"]["cost"]) for rows in by.values())
    for strategy in sorted(next(iter(by.values()))):
        chosen = [rows[strategy] for rows in by.values()]
        print(f"  {strategy:28} {sum(int(r['correct']) for r in chosen) / len(chosen):.4f}  {100 * (1 - sum(float(r['cost']) for r in chosen) / strong):+5.1f} %")
    examples = [
        Example(
            " ".join(rows["always_cheap"][c] for c in ("dataset", "task_family", "task_type", "task_subtype", "difficulty_group")) + f" tokens {int(rows['always_cheap']['prompt_tokens']) // 200}",
            *(float(rows[s]["correct"]) for s in ("always_cheap", "always_strong")), *(round(float(rows[s]["cost"]) * 1e12) for s in ("always_cheap", "always_strong")),
        ) for _, rows in sorted(by.items())
    ]  # fmt: skip
    for seed in (1, 2, 3):
        order = list(range(len(examples)))
        Random(seed).shuffle(order)
        grade = paid = 0.0
        for half in (0, 1):
            made = router.fit("qwen", "35b", "397b", [examples[n] for n in order[half::2]])
            for n in order[1 - half :: 2]:
                one = examples[n]
                dear = not isinstance(made, Router) or made.model.score(classify.row(one.text)) > made.threshold
                grade, paid = grade + (one.dear if dear else one.cheap), paid + (one.dear_pico if dear else one.cheap_pico)
        print(f"  {f'ours, seed {seed}':28} {grade / len(examples):.4f}  {100 * (1 - paid / sum(e.dear_pico for e in examples)):+5.1f} %", flush=True)


# --- near-duplicates ---


def cache() -> None:
    pairs = lines("cache-pairs/gptcache_paraphrase_pairs.jsonl.gz")
    index = Index()
    for n, pair in enumerate(pairs):
        index.add(b"%d" % n, pair["a"])
    found = [index.find(pair["b"]) for pair in pairs]
    print(f"\n{len(pairs)} paraphrases (GPTCache's own: 425 right, 25 wrong of 999 at its strictest)")
    for least, margin in ((0.3, 0.15), (0.5, 0.15), (0.5, 0.0), (0.8, 0.0)):
        served = [match.name == b"%d" % n for n, match in enumerate(found) if fits(match, Near(least, margin))]
        print(f"  likeness {least}, margin {margin}: {sum(served)} right, {len(served) - sum(served)} wrong")
    print("asked one after the other, in an order that seed 7 made: what would have been judged, and what was served once certified at 1 %")
    for name, truth in (("headlines_lookalikes", "answer"), ("banking77_intents", "intent"), ("clinc150_intents", "intent")):
        asked = lines(f"cache-pairs/{name}.jsonl.gz")
        Random(7).shuffle(asked)
        index, certificate, answers, served, wrong = Index(), Certificate(), {}, 0, 0
        for n, row in enumerate(asked[:5_000]):
            match = index.find(row["text"])
            if match is not None and fits(match, Near()):
                same = answers[match.name] == row[truth]
                if certificate.holds(0.01):
                    served, wrong = served + 1, wrong + (not same)
                certificate = certificate.seen(same)
            index.add(b"%d" % n, row["text"])
            answers[b"%d" % n] = row[truth]
        print(f"  {name:22} {certificate.n} judged, {certificate.wrong} wrong; served {served}, of those wrong {wrong}", flush=True)


PARTS = {"compact": compaction, "lost": lost, "route": tiers, "cache": cache}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
