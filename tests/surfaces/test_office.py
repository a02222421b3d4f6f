"""The office beside the gateway: started when asked for, one for all workers, back after a kill, gone with its gateway; spans and pages."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from api_rig import BODY, Answer, Gateway, served
from web_rig import Seen

import ledger_rows
from bursar.stores.reader import Reader
from bursar.surfaces import gateway, office
from bursar.surfaces.imports import otlp, otlp_protobuf
from bursar.surfaces.web.accounts import Accounts
from imports import samples
from imports.test_protobuf import message


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with served(tmp_path_factory.mktemp("office"), "[server]\ndashboard = true\nnames = ['books.example.com']", count=60) as made:
        yield made


def eventually(what: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.05)


def offices(of: int) -> list[psutil.Process]:
    return [one for one in psutil.Process(of).children(recursive=True) if "bursar.surfaces.api.office" in one.cmdline()]


# -- the process -----------------------------------------------------------------------------------------------------------


def test_nobody_starts_it_but_who_asks_and_the_gateway_loads_nothing_of_it(tmp_path: Path) -> None:
    with served(tmp_path, count=5) as gate:
        assert gate.ask("/readyz").status == 200 and gate.handle.gateway.office.starts == 0
        assert gate.ask("spend", "viewer").status == 200 and gate.handle.gateway.office.starts == 1
        (made,) = gate.ledger.glob("office-*.sock")
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        assert b"bursar_office_requests_total 1.0" in gate.ask("/metrics").body
    assert not list(gate.ledger.glob("office-*.sock"))


def test_killed_it_comes_back_and_calls_do_not_notice(gate: Gateway) -> None:
    """kill -9, thrice: the next question is answered, and a call meanwhile is as ever."""
    for _ in range(3):
        gate.ask("spend", "viewer")
        (child,) = offices(os.getpid())
        child.kill()
        call = gate.ask("/v1/chat/completions", method="POST", body=BODY)
        assert (call.status, gate.ask("/readyz").status) == (200, 200)
        assert gate.ask("spend", "viewer").status == 200


def test_an_office_that_cannot_be_had_is_a_503_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And calls go on."""
    with served(tmp_path, count=5) as gate:
        there = gate.handle.gateway.office
        there.socket = tmp_path / "nowhere" / "office.sock"
        answer = gate.ask("spend", "viewer")
        assert (answer.status, answer.code) == (503, "office_unavailable") and int(answer.headers["retry-after"]) > 0
        assert "ended with 1" in answer.json["error"]["reason"]
        assert gate.ask("/v1/chat/completions", method="POST", body=BODY).status == 200 and gate.ask("/readyz").status == 200
        monkeypatch.setattr(office, "IN_FLIGHT_MAX", 0)
        assert gate.ask("spend", "viewer").code == "too_busy"
        assert there.turned_away == 2


def test_it_takes_nobodys_word_but_the_gateways(gate: Gateway) -> None:
    """Whoever finds the socket is told nothing, whatever he says he is."""
    gate.ask("spend", "viewer")
    for line in ("", "bursar-from: {}\r\nbursar-from: {}\r\n", "bursar-from: x\r\n", 'bursar-from: {"bound": 7}\r\n'):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(str(gate.handle.gateway.office.socket))
            raw.sendall(f"GET /bursar/v1/spend HTTP/1.1\r\nhost: localhost\r\n{line}\r\n".encode())
            assert raw.recv(100).startswith(b"HTTP/1.1 403")


def test_a_ledger_deep_in_folders_has_an_office_too(tmp_path: Path) -> None:
    """A socket's address has a hundred bytes, a path may have many more."""
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    folder.mkdir(parents=True)
    with served(folder, count=5) as gate:
        assert gate.ask("spend", "viewer").status == 200


def test_what_a_killed_gateway_left_is_swept_by_the_next(tmp_path: Path) -> None:
    with served(tmp_path, count=5) as gate:
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(gate.ledger / "office-left.sock"))
        left.close()
        gate.ask("spend", "viewer")
        assert [one.name for one in gate.ledger.glob("office-*.sock")] == [gate.handle.gateway.office.socket.name]


def test_workers_have_one_office_and_it_outlives_none_of_them(tmp_path: Path) -> None:
    """Whichever worker gets the request; when the one that started it is killed, another starts the next; none is left behind."""
    ledger = tmp_path / "ledger"
    ledger_rows.write(ledger, ledger_rows.month(count=20, huge=False))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "bursar", "serve", "--workers", "2", "--port", str(port), "--ledger", str(ledger)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("BURSAR_")}
    whole = subprocess.Popen(words, env=env, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/bursar/v1/spend")
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    try:
        eventually(lambda: ask() == 200)
        assert [ask() for _ in range(30)] == [200] * 30
        (one,) = offices(whole.pid)
        parent = one.parent()
        assert parent is not None
        parent.kill()
        eventually(lambda: not one.is_running() or one.status() == psutil.STATUS_ZOMBIE)
        eventually(lambda: ask() == 200)
        eventually(lambda: len(offices(whole.pid)) == 1)
        last = offices(whole.pid)
    finally:
        whole.send_signal(signal.SIGTERM)
        whole.wait(60)
    eventually(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in last))


# -- spans -----------------------------------------------------------------------------------------------------------------


def rows(gate: Gateway, where: str) -> list[dict]:
    with Reader(gate.ledger) as reader:
        return reader.sql(f"SELECT * FROM calls WHERE {where} ORDER BY ts")


def send(gate: Gateway, key: str, *spans: dict, kind: str = "application/json", coding: str = "") -> Answer:
    text = samples.request(*spans)
    body = json.dumps(text).encode() if kind == "application/json" else message(*otlp.in_json(text))
    headers = {"content-type": kind, **({"content-encoding": coding} if coding else {})}
    return gate.ask("traces", key, method="POST", body=gzip.compress(body) if coding else body, headers=headers)


def test_spans_become_rows_with_their_source_once_in_every_encoding(gate: Gateway) -> None:
    """JSON, protobuf and gzip; what is sent again adds nothing; the key's labels overrule the span's."""
    span = samples.span(samples.GENAI | {"bursar.tenant": "globex"}, id="a" * 16)
    for kind, coding in (("application/json", ""), ("application/x-protobuf", ""), ("application/x-protobuf", "gzip")):
        answer = send(gate, "plain", span, kind=kind, coding=coding)
        assert (answer.status, answer.headers["content-type"]) == (200, kind), answer.body
    (row,) = rows(gate, "source = 'imported:otlp' AND key = 'plain'")
    assert (row["tenant"], row["conversation"]) == ("acme", "conv-1") and row["cost"]
    assert gate.ask("spend", "viewer", since="2026-10-01", until="2026-11-01").json["imported"][0]["rows"] == 1


def test_what_the_gateway_measured_is_not_counted_again_when_the_client_tells_of_it(gate: Gateway) -> None:
    call = gate.ask("/v1/chat/completions", method="POST", body=BODY)
    (row,) = rows(gate, f"call = '{call.headers['x-bursar-call']}'")
    assert row["source"] == "measured" and row["response_id"] == call.json["id"]
    start = int(row["ts"].timestamp() * 1e9)
    span = samples.span(samples.GENAI | {"gen_ai.response.id": row["response_id"]}, id="b" * 16, start=start)
    assert send(gate, "", span).status == 200
    assert len(rows(gate, f"response_id = '{row['response_id']}'")) == 1


def test_an_exporter_understands_every_answer(gate: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partial success, what is not to be sent again, and what is, with Retry-After; refusals in its own encoding."""
    timeless = samples.span(samples.GENAI, id="e" * 16, start=0, ms=0)
    assert send(gate, "", timeless).json["partialSuccess"]["rejectedSpans"] == "1"
    assert gate.ask("traces", method="POST", body=b"{", headers={"content-type": "application/json"}).status == 400
    assert gate.ask("traces", method="POST", body=b"{}", headers={"content-type": "text/plain"}).status == 415
    assert gate.ask("traces", method="POST", body=b" " * (17 << 20), headers={"content-type": "application/json"}).status == 413
    refused = send(gate, "bsr_" + "0" * 12 + "_" + "0" * 64, samples.span(samples.GENAI), kind="application/x-protobuf")
    assert refused.status == 401 and refused.headers["content-type"] == "application/x-protobuf" and b"invalid_key" in refused.body
    assert refused.body == otlp_protobuf.status(refused.body[refused.body.index(b"invalid") :].decode())
    monkeypatch.setattr(office, "IN_FLIGHT_MAX", 0)
    again = send(gate, "", samples.span(samples.GENAI))
    assert again.status == 503 and int(again.headers["retry-after"]) > 0


# -- pages -----------------------------------------------------------------------------------------------------------------


def test_pages_lie_below_bursar_and_every_link_stays_there(gate: Gateway) -> None:
    """HTML, its twins, what it loads and where it redirects to."""
    assert gate.ask("/bursar").headers["location"] == "/bursar/"
    assert gate.ask("/bursar/").headers["location"] == "/bursar/bill"
    for page in ("bill", "why", "conversations", "tools", "calls", "guards", "savings", "alarms", "audit", "settings"):
        answer = gate.ask(f"/bursar/{page}")
        assert answer.status == 200, page
        hrefs = [href for href in Seen(answer.body.decode()).hrefs if not href.startswith("#")]
        assert len(hrefs) > 9 and all(href.startswith("/bursar/") for href in hrefs), page
        assert b'src="/bursar/static/bursar.js' in answer.body and "script-src 'self'" in answer.headers["content-security-policy"]
    assert gate.ask("/bursar/static/bursar.js").status == 200
    twin = gate.ask("/bursar/bill.json?since=all").json
    link = next(row["link"] for row in twin["rows"] if "link" in row)
    assert link.startswith("/bursar/calls?") and gate.ask(link).status == 200
    assert gate.ask("/bursar/nope").status == 404


def test_pages_answer_to_names_of_this_gateway_alone(gate: Gateway) -> None:
    assert gate.ask("/bursar/bill", headers={"host": "evil.example"}).status == 421
    assert gate.ask("/bursar/bill", headers={"host": "books.example.com"}).status == 200
    assert gate.ask("/bursar/v1/spend", headers={"host": "books.example.com:8787"}).status == 200


def test_one_logs_in_acts_and_logs_out_on_the_gateway_too(tmp_path: Path) -> None:
    """The session's cookie, its token, the action, and the way back, all below /bursar; behind TLS the cookie is bound to the host."""
    with served(tmp_path, "[server]\ndashboard = true\ntrusted_proxy = true", count=10) as gate:
        Accounts(gate.ledger).add("ann", "operator", {}, "a-password-of-ann", "2026-11-01T00:00:00Z")
        sent = gate.ask("/bursar/calls?tenant=acme")
        assert (sent.status, sent.headers["location"]) == (303, "/bursar/login?then=%2Fcalls%3Ftenant%3Dacme")
        form = {"content-type": "application/x-www-form-urlencoded", "origin": f"http://127.0.0.1:{gate.handle.port}"}
        said = b"name=ann&password=a-password-of-ann&then=%2Fguards"
        assert gate.ask("/bursar/login", method="POST", body=said, headers={**form, "origin": "http://evil.example"}).status == 403
        entered = gate.ask("/bursar/login", method="POST", body=said, headers=form)
        assert (entered.status, entered.headers["location"]) == (303, "/bursar/guards")
        cookie = {"cookie": entered.headers["set-cookie"].partition(";")[0]}
        page = gate.ask("/bursar/guards", headers=cookie).body.decode()
        token = page.partition('name="csrf" value="')[2].partition('"')[0]
        assert 'action="/bursar/act/take"' in page
        act = f"csrf={token}&then=%2Fguards&name=feature&value=search&reason=x".encode()
        done = gate.ask("/bursar/act/stop", method="POST", body=act, headers={**form, **cookie})
        assert (done.status, done.headers["location"]) == (303, "/bursar/guards")
        assert gate.ask("budgets", "viewer").json["orders"][0]["by"] == "ann"
        assert gate.ask("/bursar/logout", method="POST", body=f"csrf={token}".encode(), headers={**form, **cookie}).headers["location"] == "/bursar/login"
        assert gate.ask("/bursar/guards", headers=cookie).status == 303
        secure = {**form, "origin": f"https://127.0.0.1:{gate.handle.port}", "x-forwarded-proto": "https"}
        line = gate.ask("/bursar/login", method="POST", body=said, headers=secure).headers["set-cookie"]
        assert line.startswith("__Host-bursar-gateway=") and "Secure" in line


def test_without_being_asked_for_there_are_no_pages(tmp_path: Path) -> None:
    """And a gateway that asks everybody who they are shows none before there are accounts."""
    with served(tmp_path, count=5) as gate:
        assert gate.ask("/bursar/bill").code == "not_found"
        gate.config.write_text(gate.config.read_text() + "\n[server]\ndashboard = true\n")
        assert gate.ask("/bursar/bill").status == 200
        gate.handle.gateway.require_keys = True
        assert gate.ask("/bursar/bill").code == "not_allowed"
        for path in ("spend", "/bursar/%76%31/spend", "/bursar/v1%2Fspend", "/bursar/%76%31/traces", "traces"):
            post = path.endswith("traces")
            answer = gate.ask(path, method="POST" if post else "GET", body=b"{}" if post else None, headers={"content-type": "application/json"})
            assert answer.code in ("invalid_key", "not_allowed"), path
        Accounts(gate.ledger).add("ann", "viewer", {}, "a-password-of-ann", "2026-11-01T00:00:00Z")
        assert gate.ask("/bursar/bill").status == 303


def test_a_policy_that_became_unusable_leaves_the_last_good_one(tmp_path: Path) -> None:
    with served(tmp_path, count=5) as gate:
        assert len(gate.ask("budgets", "viewer").json["rows"]) >= 3
        gate.config.write_text("[nonsense")
        assert len(gate.ask("budgets", "viewer").json["rows"]) >= 3


def test_no_provider_may_be_called_bursar(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[providers.bursar]\nbase_url = "https://example.com"\n')
    with pytest.raises(gateway.settings.BadPolicy, match="the gateway's own"):
        gateway.settings.load(tmp_path / "p.toml")
