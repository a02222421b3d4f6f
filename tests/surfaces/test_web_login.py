"""Log-in and actions: sessions, tokens against forged requests, roles bounded by labels, and a log of all of it."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import web_rig
from click.testing import CliRunner
from starlette.testclient import TestClient

import ledger_rows
from bursar.domain.incident import Incident
from bursar.domain.policy import Watch
from bursar.stores import incidents
from bursar.stores.schema import Place, connect
from bursar.surfaces import links
from bursar.surfaces.cli import main
from bursar.surfaces.web import accounts
from bursar.surfaces.web.accounts import Account, AccountFault, Accounts, Session, Sessions, Throttle

NOW = ledger_rows.END
ANN, BOB, EVE = "a-password-of-ann", "a-password-of-bob", "a-password-of-eve"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords are hashed for real, with fewer rounds than outside of tests."""
    monkeypatch.setattr(accounts, "SCRYPT", {**accounts.SCRYPT, "n": 2**4})


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    folder = tmp_path / "ledger"
    ledger_rows.write(folder, ledger_rows.month(count=120, huge=False))
    connection = connect(Place.at(folder), busy_ms=1000)
    incidents.write(connection, [
        Incident(f"k{n}", NOW - n, "stopped", "runaway_loop", "went round", tenant=tenant, conversation=f"talk-{tenant}", state="open")
        for n, tenant in enumerate(("acme", "globex"))
    ])  # fmt: skip
    connection.close()
    known = Accounts(folder)
    known.add("ann", "operator", {}, ANN, "2026-11-01T00:00:00Z")
    known.add("bob", "operator", {"tenant": "acme"}, BOB, "2026-11-01T00:00:00Z")
    known.add("eve", "viewer", {}, EVE, "2026-11-01T00:00:00Z")
    return folder


@pytest.fixture
def web(ledger: Path) -> Iterator[TestClient]:
    policy = ledger / "bursar.toml"
    policy.write_text('[[budget]]\nname = "tenants"\nscope = "tenant"\nlimit = "$50"\n')
    with web_rig.client(ledger, NOW, policy) as client:
        yield client


def log_in(web: TestClient, name: str, password: str) -> str:
    """Log in; gives the session's token for forms."""
    answer = web.post("/login", data={"name": name, "password": password, "then": "/bill"})
    assert answer.status_code == 303, answer.text
    return csrf(web)


def csrf(web: TestClient) -> str:
    return web.get("/guards").text.partition('name="csrf" value="')[2].partition('"')[0]


def orders(ledger: Path) -> list[tuple[str, ...]]:
    connection = connect(Place.at(ledger), busy_ms=1000, read_only=True)
    found = [(o.kind, o.by, o.budget, *[f"{a}={b}" for a, b in o.match]) for o in incidents.in_force(connection, NOW)]
    connection.close()
    return found


def states(ledger: Path) -> dict[str, tuple[str, str]]:
    connection = connect(Place.at(ledger), busy_ms=1000, read_only=True)
    found = {one.tenant: (one.state, one.by) for one in incidents.listed(connection)}
    connection.close()
    return found


def test_with_accounts_nobody_sees_a_page_without_logging_in(web: TestClient) -> None:
    """HTML leads to the log-in and back, programs get 401, and no number is in either."""
    for path in ("/bill", "/bill.csv?table=by", "/calls", "/call?id=c000001.1", "/values.json?name=tenant", "/guards.json"):
        answer = web.get(path)
        assert answer.status_code in (303, 401) and "$" not in answer.text, path
    answer = web.get("/calls?tenant=acme")
    assert answer.headers["location"] == "/login?then=%2Fcalls%3Ftenant%3Dacme"
    assert web.get("/static/bursar.css").status_code == 200


def test_a_session_lasts_until_the_log_out_and_its_cookie_is_for_the_server_alone(web: TestClient) -> None:
    """HttpOnly, SameSite=Strict; after the log-out the same cookie opens nothing."""
    answer = web.post("/login", data={"name": "ann", "password": ANN, "then": "/why?since=7d"})
    line = answer.headers["set-cookie"].lower()
    assert "httponly" in line and "samesite=strict" in line and answer.headers["location"] == "/why?since=7d"
    cookie = web.cookies["bursar"]
    token = csrf(web)
    assert web.get("/bill").status_code == 200
    assert web.post("/logout", data={"csrf": "wrong"}).status_code == 403
    assert web.post("/logout", data={"csrf": token}).status_code == 303
    web.cookies.set("bursar", cookie)
    assert web.get("/bill").status_code == 303


def test_behind_tls_the_cookie_is_bound_to_the_host_and_secure(ledger: Path) -> None:
    """__Host- and Secure: no other name of the domain can set or read it."""
    with web_rig.client(ledger, NOW) as web:
        web.base_url = "https://127.0.0.1"
        line = web.post("/login", data={"name": "ann", "password": ANN}).headers["set-cookie"]
        assert line.startswith("__Host-bursar=") and "Secure" in line and "Path=/" in line and "Domain" not in line


def test_a_wrong_password_and_a_name_that_nobody_has_are_told_alike(web: TestClient) -> None:
    """Same status, same body; the log says which it was about."""
    texts = [web.post("/login", data={"name": name, "password": "not-the-password"}) for name in ("ann", "nobody")]
    assert {one.status_code for one in texts} == {403} and texts[0].text == texts[1].text


def test_twenty_log_ins_a_minute_and_no_more(web: TestClient) -> None:
    """The twenty-first is 429, and not even the right password gets in."""
    for _ in range(20):
        assert web.post("/login", data={"name": "ann", "password": "not-the-password"}).status_code == 403
    assert web.post("/login", data={"name": "ann", "password": ANN}).status_code == 429


def test_the_throttle_fills_again_and_forgets_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a third of a try a second, and with a bounded memory."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    throttle = Throttle()
    assert [throttle.allows("a") for _ in range(21)] == [True] * 20 + [False]
    now[0] += 3.1
    assert throttle.allows("a") and not throttle.allows("a")
    monkeypatch.setattr(accounts, "ADDRESSES_MAX", 5)
    for n in range(50):
        throttle.allows(f"address-{n}")
    assert len(throttle._each) == 5


def test_an_operator_stops_resumes_raises_takes_ends_and_withdraws(web: TestClient, ledger: Path) -> None:
    """Each through its button's form; what it did is in the ledger, said on the next page, and in the log."""
    token = log_in(web, "ann", ANN)

    def act(name: str, /, **fields: str) -> str:
        answer = web.post(f"/act/{name}", data={"csrf": token, "then": "/guards", **fields}, headers={"sec-fetch-site": "same-origin"})
        assert answer.status_code == 303, answer.text
        return web.get("/guards").text

    assert "Stopped: tenant=globex" in act("stop", name="tenant", value="globex", reason="they asked")
    assert "has the limit $90 now" in act("raise", budget="tenants", limit="$90", reason="month end")
    assert orders(ledger) == [("stop", "ann", "", "tenant=globex"), ("raise", "ann", "tenants")]
    assert "You have taken talk-acme" in act("take", n="1")
    assert states(ledger)["acme"] == ("taken", "ann")
    assert "has its limits once more" in act("resume", n="1")
    assert states(ledger)["acme"] == ("resumed", "ann")
    assert ("resume", "ann", "", "conversation=talk-acme") in orders(ledger)
    assert "has ended" in act("end", n="2")
    assert "withdrawn" in act("withdraw", n="1")
    assert ("stop", "ann", "", "tenant=globex") not in orders(ledger)
    lines = accounts.Log(ledger).last(20)
    assert [one["did"] for one in lines] == ["login", "stop", "raise", "take", "resume", "end", "withdraw"]
    assert all(one["by"] == "ann" and one["result"] in ("in", "done") for one in lines)
    assert stat.S_IMODE((ledger / accounts.LOG).stat().st_mode) == 0o600


def test_what_another_site_sends_does_nothing(web: TestClient, ledger: Path) -> None:
    """Without the token, with another's, from another origin, by GET, as JSON: refused, and nothing is ordered."""
    token = log_in(web, "ann", ANN)
    form = {"name": "tenant", "value": "acme", "csrf": token}
    assert web.post("/act/stop", data={**form, "csrf": ""}).status_code == 403
    assert web.post("/act/stop", data={**form, "csrf": token + "x"}).status_code == 403
    assert web.post("/act/stop", data=form, headers={"origin": "https://evil.example"}).status_code == 403
    assert web.post("/act/stop", data=form, headers={"origin": "null"}).status_code == 403
    assert web.post("/act/stop", data=form, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert web.post("/act/stop", content=json.dumps(form), headers={"content-type": "application/json"}).status_code == 403
    assert web.post("/act/stop", content="x" * 20_000, headers={"content-type": "application/x-www-form-urlencoded"}).status_code == 403
    assert web.get("/act/stop").status_code == 405
    assert web.post("/act/nothing", data=form).status_code == 404
    assert orders(ledger) == []


def test_a_viewer_and_nobody_act_not_at_all(web: TestClient, ledger: Path, tmp_path: Path) -> None:
    """No button is shown, and the request itself is refused."""
    token = log_in(web, "eve", EVE)
    assert "/act/" not in web.get("/guards").text
    assert web.post("/act/stop", data={"csrf": token, "name": "tenant", "value": "acme"}).status_code == 403
    (ledger / accounts.FILE).unlink()
    with web_rig.client(ledger, NOW) as free:
        assert free.get("/guards").status_code == 200 and "/act/" not in free.get("/guards").text
        assert free.post("/act/stop", data={"csrf": "", "name": "tenant", "value": "acme"}).status_code == 403
    assert orders(ledger) == []


def test_a_bounded_account_sees_and_acts_on_its_own_alone(web: TestClient, ledger: Path) -> None:
    """Bob is acme's: rows, values, conversations, incidents and orders of others are not there for him, whatever he asks."""
    token = log_in(web, "bob", BOB)
    rows = [row for row in ledger_rows.month(count=120, huge=False) if row.tenant == "acme"]
    found = web.get("/bill.json?since=30d&by=tenant").json()
    assert [row["tenant"] for row in found["rows"]] == ["acme"]
    assert found["figures"]["calls"] == sum(row.try_no == 1 and row.attempt_kind != "correction" for row in rows)
    assert [row["value"] for row in web.get("/values.json?name=tenant").json()["rows"]] == ["acme"]
    assert web.get("/calls.json?since=30d&tenant=globex").json()["count"] == 0
    other = next(row for row in ledger_rows.month(count=120, huge=False) if row.tenant == "globex")
    mine = rows[0]
    assert web.get(f"/call?id={other.id}").status_code == 404 and web.get(f"/call?id={mine.id}").status_code == 200
    assert web.get(f"/conversation?id={other.conversation}").status_code == 404
    page = web.get("/guards?since=30d").text
    assert "talk-acme" in page and "talk-globex" not in page
    for name in ("audit", "settings"):
        assert "Ask somebody whose account is not" in web.get(f"/{name}").text

    def act(name: str, /, **fields: str) -> int:
        return web.post(f"/act/{name}", data={"csrf": token, **fields}).status_code

    assert act("take", n="2") == 409 and act("raise", budget="x", limit="$1") == 409
    assert act("stop", name="tenant", value="globex") == 409
    assert orders(ledger) == [] and states(ledger)["globex"] == ("open", "")
    assert act("stop", name="feature", value="search") == 303
    assert orders(ledger) == [("stop", "bob", "", "feature=search", "tenant=acme")]


def test_every_page_and_twin_of_a_bounded_account_is_about_its_own_rows(web: TestClient) -> None:
    """No other tenant's name on any page, in any format."""
    log_in(web, "bob", BOB)
    for name in web_rig.PAGES:
        for path in (f"/{name}?since=30d", f"/{name}.json?since=30d"):
            text = web.get(path).text
            for other in ("globex", "initech", "umbrella"):
                assert other not in text, (path, other)


def test_an_account_that_is_removed_or_has_another_password_is_out_at_once(web: TestClient, ledger: Path) -> None:
    """The session dies with what it was opened with."""
    log_in(web, "eve", EVE)
    Accounts(ledger).remove("eve")
    assert web.get("/bill").status_code == 303


def test_sessions_run_out_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """After two hours of nothing, after twelve of anything; and a thousand at most."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    one = Account(name="a", role="viewer", salt="", hash="h", created="")
    sessions = Sessions()
    token, _ = sessions.begin(one)
    for _ in range(11):
        now[0] += 3600
        assert sessions.find(token, {"a": one})
    now[0] += 3601
    assert sessions.find(token, {"a": one}) is None
    token, _ = sessions.begin(one)
    now[0] += 2 * 3600 + 1
    assert sessions.find(token, {"a": one}) is None
    tokens = [sessions.begin(one)[0] for _ in range(1_001)]
    assert sessions.find(tokens[0], {"a": one}) is None and sessions.find(tokens[-1], {"a": one})
    assert not any(token in repr(vars(sessions)) for token in tokens)
    assert Session("a", "h").csrf != Session("a", "h").csrf


@pytest.mark.parametrize(
    ("name", "role", "labels", "password", "code"),
    [("", "viewer", {}, ANN, "account_name"), ("a b", "viewer", {}, ANN, "account_name"), ("x" * 65, "viewer", {}, ANN, "account_name"),
     ("zoe", "admin", {}, ANN, "account_role"), ("zoe", "viewer", {}, "short", "account_password"), ("zoe", "viewer", {"tenant": ""}, ANN, "account_label"),
     ("ann", "viewer", {}, ANN, "account_exists")],
)  # fmt: skip
def test_what_is_no_account_is_not_made(ledger: Path, name: str, role: str, labels: dict[str, str], password: str, code: str) -> None:
    """Each with what would be right."""
    with pytest.raises(AccountFault) as bad:
        Accounts(ledger).add(name, role, labels, password, "")
    assert bad.value.code == code


def test_accounts_are_made_listed_and_removed_on_the_command_line(tmp_path: Path) -> None:
    """The password is shown once or read from standard input, and lies nowhere; the file is its owner's alone."""
    folder = tmp_path / "ledger"

    def run(*words: str, code: int = 0, given: str = "") -> str:
        ran = CliRunner().invoke(main, ["dashboard", "--ledger", str(folder), *words], input=given)
        assert ran.exit_code == code, ran.output
        return ran.output

    shown = run("accounts", "add", "ann", "--role", "operator", "--label", "tenant=acme")
    password = shown.split()[-1]
    assert "ann: operator, sees only tenant=acme" in shown and len(password) >= 20
    body = (folder / accounts.FILE).read_text()
    assert password not in body and stat.S_IMODE((folder / accounts.FILE).stat().st_mode) == 0o600
    assert Accounts(folder).check("ann", password) is not None
    run("accounts", "add", "bob", "--password-stdin", given=BOB + "\n")
    assert [row["name"] for row in json.loads(run("accounts", "list", "--json"))["rows"]] == ["ann", "bob"]
    assert "tenant=acme" in run("accounts", "list")
    run("accounts", "remove", "bob")
    assert "see `bursar dashboard accounts list`" in run("accounts", "remove", "bob", code=2)
    assert run("log") == "nobody logged in yet\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--host", "0.0.0.0"], "no accounts"), (["--host", "::"], "no accounts"), (["--tls-cert", "x"], "belong together")],
)
def test_it_does_not_listen_where_others_could_read_along(tmp_path: Path, words: list[str], told: str) -> None:
    """Other addresses than loopback need accounts and encryption; the refusal says how to get there."""
    ran = CliRunner().invoke(main, ["dashboard", "--ledger", str(tmp_path), *words])
    assert ran.exit_code == 2 and told in ran.output
    Accounts(tmp_path).add("ann", "viewer", {}, ANN, "")
    ran = CliRunner().invoke(main, ["dashboard", "--ledger", str(tmp_path), "--host", "0.0.0.0"])
    assert ran.exit_code == 2 and "--tls-cert" in ran.output
    ran = CliRunner().invoke(main, ["dashboard", "--ledger", str(tmp_path), "--host", "0.0.0.0", "--behind-proxy"])
    assert ran.exit_code == 2 and "--name" in ran.output


def test_a_messages_link_asks_and_acts_once(web: TestClient, ledger: Path) -> None:
    """Signed, for a time, for whoever has the message; opening it does nothing."""
    url = links.make("", links.key(Watch(), ledger), "stop", '{"feature":"search"}', NOW + 3_600_000_000)
    asked = web.get(url)
    assert asked.status_code == 200 and "feature=search" in asked.text and "<button>Stop</button>" in asked.text
    assert orders(ledger) == []
    assert web.post(url, headers={"origin": "https://elsewhere.example"}).status_code == 403
    done = web.post(url)
    assert done.status_code == 200 and "Stopped: order 1" in done.text
    assert len(orders(ledger)) == 1
    assert web.post(url).status_code == 409, "good once"
    assert web.get(url.replace("search", "billing")).status_code == 403, "the labels are signed too"
    late = links.make("", links.key(Watch(), ledger), "stop", '{"feature":"x"}', NOW - 1)
    assert web.get(late).status_code == 403 and web.get("/do/nothing?sign=x").status_code == 403
    assert 'attachment' not in asked.headers.get("content-disposition", "") and "script-src" in asked.headers["content-security-policy"]
