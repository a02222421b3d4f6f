"""`bursar route train` and `test`: a file of grades in, a router out, and what it would save."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from bursar.rules import router
from bursar.surfaces.cli import main

EASY = "what is the capital of {}", "spell the word {}", "say hello to {}"
HARD = "prove that {} is not twice the sum of 3 and 5", "debug this:\n```def {}(x): return x == 1```", "compare {} with 12.5% of 1,200 and explain why"


def graded(file: Path, count: int, seed: int = 1, **more: object) -> Path:
    chance = Random(seed)
    with file.open("w") as out:
        for _ in range(count):
            hard = chance.random() < 0.4
            word = "".join(chance.choice("abcdefgh") for _ in range(5)) + str(chance.randrange(100))
            line = {
                "text": chance.choice(HARD if hard else EASY).format(word), "cheap": int(chance.random() < (0.2 if hard else 0.95)),
                "dear": int(chance.random() < 0.97), "cheap_cost": "0.0004", "dear_cost": "0.012", **more,
            }  # fmt: skip
            out.write(json.dumps(line) + "\n")
    return file


def ran(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["route", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def train(folder: Path, file: Path, *more: str) -> tuple[int, str, str]:
    return ran("train", str(file), "--feature", "triage", "--cheap", "gpt-5-nano", "--dear", "gpt-5", "--ledger", str(folder / "ledger"), *more)


def test_a_router_is_trained_stored_beside_the_ledger_and_tested(tmp_path: Path) -> None:
    code, out, err = train(tmp_path, graded(tmp_path / "a.jsonl", 400))
    assert code == 0, err
    assert "triage: 400 graded requests, gpt-5-nano or gpt-5" in out and "this router (97%)" in out
    assert "fold 5 of 5" in err and max(map(len, out.split("\nOf the gap")[0].splitlines())) <= 80
    made = tmp_path / "ledger" / "routers" / "triage.router"
    assert router.load(made.read_bytes()).feature == "triage" and not made.with_name("triage.router.new").exists()
    code, out, err = ran("test", str(made), str(graded(tmp_path / "b.jsonl", 300, 2)))
    assert code == 0, out
    strangers = tmp_path / "c.jsonl"
    strangers.write_text("".join(json.dumps({"text": f"Mietvertrag Absatz {n}: der Vermieter haftet", "cheap": 1, "dear": 1}) + "\n" for n in range(120)))
    code, out, err = ran("test", str(made), str(strangers))
    assert code == 1 and "would not serve these" in out


def test_the_json_document_has_the_same_figures(tmp_path: Path) -> None:
    code, out, _ = train(tmp_path, graded(tmp_path / "a.jsonl", 300), "--json", "--keep", "0.9")
    told = json.loads(out)
    assert code == 0 and told["trained"] is True and told["keep"] == "0.9" and Path(told["file"]).exists()
    assert told["rows"][0] == {"what": "all gpt-5-nano", "dear_share": "0.0000", "grade": told["rows"][0]["grade"], "cost": "0.12"}
    assert told["rows"][-1]["cost"] == "3.6" and 0.5 < float(told["apgr"]) <= 1


def test_a_router_that_keeps_less_than_it_promised_is_found_out(tmp_path: Path) -> None:
    """The cheap model has become worse since."""
    assert train(tmp_path, graded(tmp_path / "a.jsonl", 400))[0] == 0
    code, out, _ = ran("test", str(tmp_path / "ledger/routers/triage.router"), str(graded(tmp_path / "b.jsonl", 300, 2, cheap=0)))
    assert code == 1 and "less than the 97% that it promised" in out
    code, out, _ = ran("test", str(tmp_path / "ledger/routers/triage.router"), str(tmp_path / "b.jsonl"), "--json")
    assert code == 1 and json.loads(out)["keeps_its_promise"] is False


def test_nothing_to_route_is_a_finding_with_a_remedy(tmp_path: Path) -> None:
    code, out, _ = train(tmp_path, graded(tmp_path / "few.jsonl", 50))
    assert code == 1 and "at least 200" in out and "grade more" in out
    code, out, _ = train(tmp_path, graded(tmp_path / "worse.jsonl", 300, dear=0), "--json")
    told = json.loads(out)
    assert code == 1 and told["trained"] is False and "not better" in told["reason"] and "gpt-5-nano" in told["remedy"]
    assert not (tmp_path / "ledger" / "routers").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "a.jsonl:2"), ('{"text": "x", "cheap": 2, "dear": 1}', "from 0 to 1"), ('{"text": "x", "cheap": 1}', "dear"),
     ('{"text": "x", "cheap": 1, "dear": 1, "cost": 5}', "cost"), ('{"text": "x", "cheap": 1, "dear": 1, "dear_cost": "five"}', "five")],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "ok", "cheap": 1, "dear": 1}\n' + line + "\n")
    code, _, err = train(tmp_path, file)
    assert code == 2 and said in err and "a line is" in err


def test_what_is_no_router_and_what_is_no_feature_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "x.router").write_bytes(b"nothing")
    code, _, err = ran("test", str(tmp_path / "x.router"), str(graded(tmp_path / "a.jsonl", 10)))
    assert code == 2 and "route train" in err
    code, _, err = ran("train", str(tmp_path / "a.jsonl"), "--feature", "../x", "--cheap", "a", "--dear", "b", "--ledger", str(tmp_path))
    assert code == 2 and "letters, digits" in err
