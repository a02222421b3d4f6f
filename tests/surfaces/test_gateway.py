"""The gateway's edge: who may call, what reaches a provider, what is never shown, and what happens when things leave."""

from __future__ import annotations

import gc
import http.client
import json
import socket
import subprocess
import sys
import time
from decimal import Decimal

import pytest

from bursar.domain.policy import Budget, LedgerPolicy, Policy, Provider, Server
from bursar.stores.reader import Reader
from bursar.surfaces import gateway, keys
from bursar.surfaces.exchange import Exchange
from bursar.testing.provider import Provider as Scripted
from bursar.testing.script import Say

BODY = json.dumps({"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 30})


@pytest.fixture
def provider():
    with Scripted() as scripted:
        yield scripted


def served(tmp_path, provider, **more):
    policy = Policy(
        providers={"openai": Provider(base_url=provider.url, key="sk-operators-own", **more.pop("table", {}))},
        ledger=LedgerPolicy(compact_every_s=0), **more,
    )  # fmt: skip
    return gateway.serve_in_thread(ledger=tmp_path / "ledger", policy=policy)


def post(handle, headers=None, body=BODY, path="/v1/chat/completions"):
    connection = http.client.HTTPConnection("127.0.0.1", handle.port, timeout=30)
    connection.request("POST", path, body, {"content-type": "application/json", **(headers or {})})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


def rows(tmp_path):
    with Reader(tmp_path / "ledger") as reader:
        return reader.sql("select * from calls order by ts")


def test_the_operators_key_goes_on_and_the_callers_stays(tmp_path, provider):
    """A secret is bound to its destination; the client's own credential is not for this provider."""
    handle = served(tmp_path, provider)
    answer, _ = post(handle, {"authorization": "Bearer sk-callers-own", "cookie": "a=b"})
    handle.stop()
    assert answer.status == 200
    seen = provider.seen[-1].headers
    assert seen["authorization"] == "Bearer sk-operators-own" and "cookie" not in seen
    assert not any(name.startswith("x-bursar-") for name in seen)


def test_a_virtual_key_binds_its_tenant_and_reaches_no_provider(tmp_path, provider):
    """Not even while it is unknown: a bsr_ token is ours, and a wrong one is 401."""
    (tmp_path / "ledger").mkdir()
    handle = served(tmp_path, provider)
    wrong, data = post(handle, {"authorization": "Bearer bsr_000000000000_" + "0" * 64})
    assert wrong.status == 401 and json.loads(data)["error"]["code"] == "invalid_key" and not provider.seen
    secret, _ = keys.create(tmp_path / "ledger", "team-a", tenant="acme", now_us=1)
    time.sleep(1.2)
    answer, _ = post(handle, {"authorization": f"Bearer {secret}", "x-bursar-tenant": "rival"})
    handle.stop()
    assert answer.status == 200
    assert "bsr_" not in json.dumps(provider.seen[-1].headers)
    row = rows(tmp_path)[-1]
    assert (row["tenant"], row["key"]) == ("acme", "team-a")


def test_the_price_of_a_call_is_in_its_headers(tmp_path, provider):
    """Exact dollars, from the row that is already written."""
    handle = served(tmp_path, provider)
    answer, _ = post(handle, {"x-script": json.dumps({"usage": {"input": 1000, "output": 100}}), "x-bursar-feature": "f"})
    handle.stop()
    assert answer.headers["x-bursar-cost"] == "0.00045"  # 1000 x $0.25 + 100 x $2 per million
    assert answer.headers["x-bursar-cost-source"] == "provider" and answer.headers["x-bursar-tries"] == "1"
    assert rows(tmp_path)[0]["call"] == answer.headers["x-bursar-call"]


def test_a_hard_budget_refuses_with_numbers_and_the_next_tenant_is_untouched(tmp_path, provider):
    """402 once the hold does not fit; nobody else's calls are stopped."""
    handle = served(tmp_path, provider, budget=[Budget(scope="tenant", limit="2 calls", window="day")])
    statuses = [post(handle, {"x-bursar-tenant": "acme"})[0].status for _ in range(3)]
    other = post(handle, {"x-bursar-tenant": "rival"})[0].status
    handle.stop()
    assert statuses == [200, 200, 402] and other == 200
    assert len(provider.seen) == 3


def test_a_reply_says_what_is_left_of_the_tightest_hard_budget(tmp_path, provider):
    """With the call's price on a reply held back whole, with its hold on a stream; a soft budget is nobody's limit."""
    budgets = [
        Budget(scope="tenant", limit="$1", window="day"), Budget(scope="all", limit="3 calls", window="day"),
        Budget(scope="all", limit="1 calls", window="month", hard=False),
    ]  # fmt: skip
    script = {"x-bursar-tenant": "acme", "x-script": json.dumps({"usage": {"input": 1000, "output": 100}})}
    handle = served(tmp_path, provider, budget=budgets[:1])
    first, second = post(handle, script)[0], post(handle, script)[0]
    streamed = post(handle, script, json.dumps({**json.loads(BODY), "stream": True, "max_tokens": 1000}).encode())[0]
    handle.stop()
    assert [answer.headers["x-bursar-remaining"] for answer in (first, second)] == ["0.99955", "0.9991"]
    assert Decimal("0.9991") - Decimal(streamed.headers["x-bursar-remaining"]) > Decimal("0.002"), "1,000 tokens at $2 per million and the prompt"
    handle = served(tmp_path / "other", provider, budget=budgets[1:])
    assert [post(handle, script)[0].headers["x-bursar-remaining"] for _ in range(3)] == ["2 calls", "1 calls", "0 calls"]
    assert "x-bursar-remaining" not in post(handle, script)[0].headers
    handle.stop()
    handle = served(tmp_path / "third", provider, budget=budgets[1:], server=Server(gather_max=100))
    assert post(handle, script)[0].headers["x-bursar-remaining"] == "2 calls", "too large to hold back"
    handle.stop()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_address_that_somebody_has_is_said_and_not_a_traceback(tmp_path, workers):
    """Also by several workers, which are then not started again and again."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = subprocess.run(
            [sys.executable, "-m", "bursar", "serve", "--port", str(port), "--workers", str(workers), "--ledger", str(tmp_path / "ledger")],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert ran.returncode == 2, ran.stderr
    assert f"127.0.0.1:{port} cannot be listened on: Address already in use" in ran.stderr and "--port" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_health_readiness_and_metrics_are_there_and_name_no_secret(tmp_path, provider):
    """Prometheus text with the rows' dollars; no key in it."""
    handle = served(tmp_path, provider)
    post(handle, {"authorization": "Bearer sk-callers-own"})
    found = {}
    for path in ("/healthz", "/readyz", "/metrics"):
        connection = http.client.HTTPConnection("127.0.0.1", handle.port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        found[path] = answer.read().decode()
        assert answer.status == 200
        connection.close()
    handle.stop()
    assert 'bursar_tries_total{dialect="openai_chat",operation="primary",provider="openai",status="ok"} 1.0' in found["/metrics"]
    assert "bursar_conversations 1.0" in found["/metrics"] and "bursar_message_bytes 0.0" not in found["/metrics"]
    assert "sk-" not in "".join(found.values())


@pytest.mark.parametrize("policy", ["abort", "drain"])
def test_a_client_that_leaves_a_stream_leaves_a_priced_row(tmp_path, provider, policy):
    """Abort cancels the provider and estimates; drain reads on for the exact usage. Never zero, never nothing."""
    provider.script = lambda seen: Say(text="word " * 40, pieces=40, pause_s=0.02)
    handle = served(tmp_path, provider, table={"on_disconnect": policy})
    body = json.dumps(json.loads(BODY) | {"stream": True})
    raw = socket.create_connection(("127.0.0.1", handle.port))
    raw.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    raw.recv(2000)
    raw.close()
    deadline = time.monotonic() + 20
    while not handle.gateway.counters.tries and time.monotonic() < deadline:
        time.sleep(0.05)
    handle.stop()
    (row,) = rows(tmp_path)
    assert row["cost"] and row["cost"] > 0
    assert row["ended"] == ("abandoned" if policy == "abort" else "complete"), row["ended"]
    assert row["usage_source"] == ("estimated" if policy == "abort" else "provider")


@pytest.mark.parametrize(
    ("host", "has_keys", "server", "safe"),
    [
        ("127.0.0.1", False, {}, True), ("localhost", False, {}, True), ("::1", False, {}, True),
        ("0.0.0.0", False, {}, False), ("0.0.0.0", True, {}, False), ("10.0.0.5", True, {}, False), ("example.org", True, {}, False),
        ("0.0.0.0", False, {"trusted_proxy": True}, False), ("0.0.0.0", True, {"trusted_proxy": True}, True),
        ("0.0.0.0", True, {"tls_cert": "c", "tls_key": "k"}, True), ("0.0.0.0", False, {"tls_cert": "c", "tls_key": "k"}, False),
        ("0.0.0.0", True, {"tls_cert": "c"}, False),
    ],
)  # fmt: skip
def test_an_open_gateway_is_refused_unless_it_has_keys_and_tls(host, has_keys, server, safe):
    """Anyone who can reach an open gateway spends the operator's money."""
    assert (gateway.unsafe(Policy(server=Server(**server)), host, has_keys) == "") is safe


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/elsewhere/v1/chat/completions"])
@pytest.mark.parametrize(
    "script", [{}, {"fault": "status", "status": 500}, {"fault": "reset_before_status"}, {"fault": "reset_in_body"}], ids=lambda s: s.get("fault", "good")
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_over_is_let_go_at_once(tmp_path, provider, path, script, stream):
    """Not when the next collection comes: bodies of calls long answered would stay until then, and every call work in cold memory."""
    handle = served(tmp_path, provider)
    body = json.dumps({**json.loads(BODY), "stream": stream})
    post(handle, body=body)  # what the first call makes once
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            try:
                post(handle, {"x-script": json.dumps(script)}, body, path)
            except (http.client.HTTPException, ConnectionError):
                pass  # broken off, as it should be
        time.sleep(0.3)
        left = [one for one in gc.get_objects() if isinstance(one, Exchange)]
    finally:
        gc.enable()
        handle.stop()
    assert not left
