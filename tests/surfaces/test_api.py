"""The gateway's own API over its socket: the commands' own answers, within what the caller may see, and one shape of refusal."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_rig import SINCE, UNTIL, Gateway, served
from click.testing import CliRunner

import ledger_rows
from bursar.stores import incidents
from bursar.stores.reader import Reader
from bursar.stores.schema import Place, connect
from bursar.surfaces import keys, wiring
from bursar.surfaces.api.app import WAYS
from bursar.surfaces.cli import main

NAMES = ("tenant", "feature", "flow", "operation", "cause", "model", "provider", "conversation", "status", "price_status", "label:team", "label:pr")


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with served(tmp_path_factory.mktemp("api")) as made:
        yield made


def told(gate: Gateway, *words: str) -> dict:
    """What the command says with --json."""
    ran = CliRunner().invoke(main, [*words, "--json", "--ledger", str(gate.ledger)])
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.output)


def test_two_hundred_questions_are_answered_as_the_command_answers_them(gate: Gateway) -> None:
    """Any group-by, grain, filter and top: the very same document."""
    chance = random.Random(7)
    for _ in range(200):
        by = chance.sample(NAMES, chance.choice((0, 1, 1, 2, 3)))
        grain = chance.choice(("", "", "day", "week")) if len(by) < 2 else ""
        where = [f"{n}{chance.choice(('=', '!='))}{v}" for n, v in chance.sample((("tenant", "acme"), ("feature", ""), ("team", "red"), ("operation", "eval")), chance.choice((0, 0, 1, 2)))]
        top = chance.choice((0, 0, 3))
        params = {"since": SINCE, "until": chance.choice((UNTIL, "2026-11-11")), **({"by": ",".join(by)} if by else {}), **({"grain": grain} if grain else {}), **({"top": top} if top else {}), "where": where}
        words = [word for name, value in params.items() for one in (value if isinstance(value, list) else [value]) for word in (f"--{name}", str(one))]
        answer = gate.ask("spend", "viewer", **params)
        assert answer.status == 200, (params, answer.body)
        assert answer.json == told(gate, "spend", *words), params


@pytest.mark.parametrize(("path", "params", "words"), [
    ("spend", {"full": 1}, ["spend", "--by", "tenant", "--full"]),
    ("spend", {"by": "tenant", "full": 1, "key": "calls"}, ["spend", "--full", "--key", "calls"]),
    ("conversations", {"top": 7}, ["conversations", "--top", "7"]),
    ("conversations", {"since": "2026-01-01", "until": "2026-01-02"}, ["conversations", "--since", "2026-01-01", "--until", "2026-01-02"]),
    ("conversations/conv-3", {}, ["conversation", "conv-3"]),
    ("incidents", {"state": "open"}, ["guard", "incidents", "--state", "open"]), ("incidents", {}, ["guard", "incidents"]),
])  # fmt: skip
def test_the_other_documents_are_the_commands_too(gate: Gateway, path: str, params: dict, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gate.config.parent)  # the policy in force
    assert gate.ask(path, "viewer", **params).json == told(gate, *words)


def test_calls_page_by_page_are_all_rows_once_and_newest_first(gate: Gateway) -> None:
    """Also past rows of the same time; and without a next page there is none."""
    whole = gate.ask("calls", "viewer", limit=2_000).json
    assert whole["next"] is None and whole["rows"] == told(gate, "calls", "--limit", "10000")["rows"]
    paged, after = [], ""
    while after is not None:
        page = gate.ask("calls", "viewer", limit=37, **({"after": after} if after else {})).json
        paged += page["rows"]
        after = page["next"]
    assert paged == whole["rows"] and len(paged) > 300


def test_labels_are_those_that_rows_have_and_their_values_sum_to_what_carries_them(gate: Gateway) -> None:
    found = {row["name"]: row for row in gate.ask("labels", "viewer").json["rows"]}
    assert {"tenant", "feature", "team", "pr"} <= set(found) and found["team"]["free"] and not found["tenant"]["free"]
    with Reader(gate.ledger) as reader:
        (sums,) = reader.sql("SELECT sum(cost) AS cost FROM calls WHERE tenant <> ''")
    assert found["tenant"]["cost"] == f"{sums['cost']:f}".rstrip("0")
    values = gate.ask("labels", "viewer", name="tenant", q="GL").json["rows"]
    assert [one["value"] for one in values] == ["globex"]


# -- who may ask what ------------------------------------------------------------------------------------------------------

READS = ["spend", "spend?by=tenant", "spend?full=1", "spend?by=tenant&where=tenant%3Dglobex", "spend?by=tenant&where=tenant%21%3Dacme",
         "spend?by=conversation,user&grain=week", "calls?limit=2000", "calls?where=tenant%3Dglobex", "conversations?top=10000", "labels",
         "labels?name=tenant", "labels?name=tenant&where=tenant%3Dglobex", "budgets", "incidents", "incidents?where=tenant%3Dglobex",
         "handoff"]  # fmt: skip


def test_a_teams_key_sees_nothing_of_another_team(gate: Gateway) -> None:
    """Each way of reading, asked as it is and asked for the other team."""
    assert {f"/{path.partition('?')[0]}" for path in READS} == {way.path for way in WAYS if way.method == "GET"} - {"/conversations/{id:path}"}
    for path in READS:
        whole, mine = gate.ask(path, "viewer"), gate.ask(path, "acme")
        assert whole.status == mine.status == 200, path
        for other in (b"globex", b"initech", b"umbrella"):
            assert other not in mine.body.replace(b'"tenant!=globex"', b""), (path, other)
    assert b"acme" in gate.ask("calls?limit=2000", "acme").body
    with Reader(gate.ledger) as reader:
        talks = {row["conversation"]: row["tenants"] for row in reader.sql(
            "SELECT conversation, list(DISTINCT tenant) AS tenants FROM calls WHERE conversation <> '' GROUP BY 1")}  # fmt: skip
    for talk, tenants in talks.items():
        if tenants != ["acme"]:
            assert gate.ask(f"conversations/{talk}", "acme").status == 404
            break
    total = gate.ask("spend?by=tenant", "acme").json
    assert [row["tenant"] for row in total["rows"]] == ["acme"] and total["total"]["cost"] == total["rows"][0]["cost"]
    assert [(row["budget"], row["scope"]) for row in gate.ask("budgets", "acme").json["rows"]] == [("tenants", "acme")]
    assert {row["scope"] for row in gate.ask("budgets", "viewer").json["rows"] if row["budget"] == "tenants"} == {"acme", "globex"}


def test_a_key_without_a_role_reads_nothing_and_a_viewer_does_nothing(gate: Gateway) -> None:
    for way in WAYS:
        path = way.path.replace("{id:path}", "conv-1").replace("{name:path}", "tenants").replace("{n:int}", "1").removeprefix("/")
        refused = gate.ask(path, "plain", method=way.method, body=b"{}" if way.method == "POST" else None)
        assert (refused.status, refused.code) == (403, "not_allowed"), path
        if way.need == "act":
            for caller in ("viewer", "acme", ""):
                assert gate.post(path, caller).status == 403, path


def test_a_wrong_or_revoked_key_is_refused_at_the_door(gate: Gateway) -> None:
    token, _ = keys.create(gate.ledger, "gone", role="viewer", now_us=ledger_rows.END)
    gate.handle.gateway.ring.refresh_if_changed()
    assert gate.ask("spend", token).status == 200
    keys.revoke(gate.ledger, "gone", now_us=ledger_rows.END)
    gate.handle.gateway.ring.refresh_if_changed()
    answer = gate.ask("spend", token)
    assert (answer.status, answer.code, answer.headers["www-authenticate"]) == (401, "key_revoked", "Bearer")
    assert gate.ask("spend", "bsr_" + "0" * 12 + "_" + "0" * 64).code == "invalid_key"
    assert gate.ask("spend", headers={"x-bursar-key": gate.keys["viewer"]}).status == 200


def test_without_a_key_this_machine_may_read_by_its_own_names_alone(gate: Gateway) -> None:
    """As the gateway takes calls here without a key. A name that another site's DNS leads here is not one."""
    assert gate.ask("spend").status == 200
    assert gate.ask("spend", headers={"host": "evil.example"}).code == "not_allowed"
    assert gate.ask("spend", "viewer", headers={"host": "evil.example"}).status == 200


def test_the_gateways_word_for_who_asks_cannot_be_forged(gate: Gateway) -> None:
    """A client that writes the line itself is who it was before."""
    word = json.dumps({"key": "root", "role": "operator", "open": True})
    assert gate.ask("stop", "viewer", method="POST", body=b'{"conversation": "x"}', headers={"bursar-from": word}).status == 403
    forged = gate.ask("calls?limit=2000", "acme", headers={"Bursar-From": word})
    assert forged.status == 200 and b"globex" not in forged.body


# -- orders ----------------------------------------------------------------------------------------------------------------


def orders(gate: Gateway) -> list[tuple[str, ...]]:
    connection = connect(Place.at(gate.ledger), busy_ms=1000, read_only=True)
    found = [(o.kind, o.by, *[f"{a}={b}" for a, b in o.match], *([f"{o.budget} {o.limit}"] if o.budget else [])) for o in incidents.in_force(connection, wiring.now_us())]
    connection.close()
    return found


def test_an_operator_stops_resumes_raises_and_takes(tmp_path: Path) -> None:
    """What `bursar guard` orders, in the name of the key, and all of it in the log."""
    with served(tmp_path, count=20) as gate:
        assert gate.post("stop", "operator", where={"feature": "search"}, reason="loops", **{"for": "2h"}).status == 200
        assert gate.post("stop", "acme-op", where={"feature": "search"}).status == 200
        assert orders(gate) == [("stop", "operator", "feature=search"), ("stop", "acme-op", "feature=search", "tenant=acme")]
        assert gate.post("resume", "acme-op", where={"feature": "search"}).status == 200
        assert gate.post("resume", "acme-op", where={"feature": "search"}).code == "not_done"
        assert orders(gate) == [("stop", "operator", "feature=search")]
        assert gate.post("stop", "acme-op", where={"tenant": "globex"}).code == "bad_request"
        assert gate.post("budgets/tenants/raise", "operator", limit="$80").status == 200
        assert ("raise", "operator", "tenants $80") in orders(gate)
        assert gate.ask("budgets", "viewer").json["rows"][0]["raised"] in (True, False)
        assert gate.post("budgets/tenants/raise", "acme-op", limit="$80").code == "not_allowed"
        assert gate.post("budgets/nope/raise", "operator", limit="$80").status == 404
        assert gate.post("budgets/tenants/raise", "operator", limit="eighty").code == "bad_request"
        open_ = {one["tenant"]: one["n"] for one in gate.ask("handoff", "operator").json["rows"]}
        assert gate.post(f"handoff/{open_['globex']}/take", "acme-op").status == 404
        assert gate.post(f"handoff/{open_['acme']}/take", "acme-op").json["rows"][0]["by"] == "acme-op"
        assert gate.post(f"handoff/{open_['acme']}/resume", "acme-op").status == 200
        assert gate.post(f"handoff/{open_['globex']}/end", "operator").status == 200
        assert gate.ask("handoff", "operator").json["rows"] == []
        log = [json.loads(line) for line in (gate.ledger / "dashboard.log").read_text().splitlines()]
        assert {"operator", "acme-op"} == {line["by"] for line in log} and {"api /stop", "api /resume"} <= {line["did"] for line in log}
        assert any(line["result"].startswith("refused: not_allowed") for line in log)


def test_naming_past_rows_keeps_the_total_and_stays_within_the_key(tmp_path: Path) -> None:
    with served(tmp_path, count=120) as gate:
        before = gate.ask("spend", "viewer", by="tenant").json
        asked = {"names": {"feature": "triage"}, "where": {"feature": ""}}
        tried = gate.post("labels", "acme-op", **asked, dry_run=True).json
        assert tried["corrected"] > 0 and tried["named"] == 0
        assert gate.post("labels", "acme-op", **asked).json["named"] == tried["corrected"]
        after = gate.ask("spend", "viewer", by="tenant,feature").json
        assert after["total"]["cost"] == before["total"]["cost"]
        assert {row["tenant"] for row in after["rows"] if row["feature"] == "triage"} == {"acme"}
        assert gate.post("labels", "acme-op", names={"tenant": "globex"}, all=True).code == "not_allowed"
        assert gate.post("labels", "operator", names={"feature": "x"}).code == "bad_request"  # every row of the ledger
        assert gate.post("labels", "operator", names={"feature": "x"}, where={"tenant": "acme"}).code == "bad_request"  # they say another
        assert gate.post("labels", "operator", names={"feature": "x"}, where={"tenant": "acme"}, replace=True).json["named"] > 0


def test_accounts_close_the_books_and_leave_the_door_for_spans_open(tmp_path: Path) -> None:
    """Somebody decided who may look: from then on nobody looks without a key. Calls, and what is told of calls, go on."""
    with served(tmp_path, count=10) as gate:
        assert gate.ask("spend").status == 200
        ran = CliRunner().invoke(main, ["dashboard", "--ledger", str(gate.ledger), "accounts", "add", "ann"])
        assert ran.exit_code == 0
        assert (gate.ask("spend").status, gate.ask("spend").code) == (401, "invalid_key")
        assert gate.ask("spend", "viewer").status == 200
        assert gate.post("traces", resourceSpans=[]).status == 200


# -- hostile ---------------------------------------------------------------------------------------------------------------

HOSTILE = [
    ("GET", "spend?by=" + "x" * 2000, b""), ("GET", "spend?by=a&by=b", b""), ("GET", "spend?by=tenant,tenant", b""), ("GET", "spend?top=-1", b""),
    ("GET", "spend?top=1e3", b""), ("GET", "spend?grain=year", b""), ("GET", "spend?since=never", b""), ("GET", "spend?where=tenant", b""),
    ("GET", "spend?where=turn%3Dx", b""), ("GET", "spend?" + "where=a%3Db&" * 100, b""), ("GET", "spend?full=maybe", b""),
    ("GET", "spend?full=1&by=feature", b""), ("GET", "spend?key=cost", b""), ("GET", "spend?since=9999-01-01", b""), ("GET", "calls?limit=0", b""),
    ("GET", "calls?after=x", b""), ("GET", "calls?limit=99999999999999", b""), ("GET", "conversations?human_cost=much", b""),
    ("GET", "conversations/nope", b""), ("GET", "conversations/..%2f..%2fetc%2fpasswd", b""), ("GET", "nope", b""), ("GET", "", b""),
    ("GET", "incidents?where=nope%3D1", b""), ("GET", "incidents?state=no", b""), ("GET", "%ff%fe", b""), ("DELETE", "spend", b""),
    ("POST", "spend", b"{}"), ("GET", "traces", b""), ("OPTIONS", "spend", b""), ("POST", "stop", b""), ("POST", "stop", b"["), ("POST", "stop", b"[]"),
    ("POST", "stop", b'{"where": 7}'), ("POST", "stop", b'{"where": {"a": 1}}'), ("POST", "stop", b'{"where": {"a": ""}}'),
    ("POST", "stop", b'{"where": ["status=ok"]}'), ("POST", "stop", b'{"where": ["a!=b"]}'), ("POST", "stop", b'{"conversation": ["a", "b"]}'),
    ("POST", "stop", b'{"conversation": "x", "for": "ever"}'), ("POST", "stop", b'{"x": 1}'), ("POST", "stop", b"{" * 60_000),
    ("POST", "stop", b'{"conversation": "' + b"x" * 70_000 + b'"}'), ("POST", "handoff/999/take", b"{}"), ("POST", "handoff/x/take", b"{}"),
    ("POST", "handoff/99999999999999999999999/take", b"{}"), ("POST", "labels", b"{}"), ("POST", "labels", b'{"names": {"id": "x"}, "all": true}'),
    ("POST", "labels", b'{"names": {"a": "\\u0000"}, "all": true}'), ("POST", "budgets/tenants/raise", b"{}"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), HOSTILE, ids=range(len(HOSTILE)))
def test_what_cannot_be_asked_is_refused_with_a_reason_and_a_remedy(gate: Gateway, method: str, path: str, body: bytes) -> None:
    """Never a fault of ours, and never an order."""
    answer = gate.ask(path, "operator", method=method, body=body or None)
    assert 400 <= answer.status < 500, answer.body
    assert answer.code in ("bad_request", "malformed_json", "not_found", "method_not_allowed", "body_too_large", "not_done")
    assert orders(gate) == []


def test_labels_that_are_an_attack_come_back_as_text(gate: Gateway) -> None:
    """Bound as values, told as JSON in ASCII."""
    attack = "red' OR 1=1; --\x1b[31m</script>"
    answer = gate.ask("spend", "viewer", by=f"label:{attack}", where=[f"tenant={attack}", f"{attack}={attack}"])
    assert answer.status == 200 and answer.body.isascii() and answer.json["total"]["calls"] == 0
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-content-type-options"] == "nosniff"


def test_the_openapi_document_has_every_way_with_what_it_takes(gate: Gateway) -> None:
    paths = gate.ask("openapi.json").json["paths"]
    said = {(way.method.lower(), "/bursar/v1" + way.path.replace(":path", "").replace(":int", "")) for way in WAYS} | {("post", "/bursar/v1/traces")}
    assert {(method, path) for path, methods in paths.items() for method in methods} == said
    assert {one["name"] for one in paths["/bursar/v1/spend"]["get"]["parameters"]} == set(WAYS[0].takes)
