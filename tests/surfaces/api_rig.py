"""A gateway with its office in a test: a ledger with two teams in it, keys for each, and an HTTP client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import ledger_rows
from bursar.domain.incident import Incident
from bursar.stores import incidents
from bursar.stores.schema import Place, connect
from bursar.surfaces import gateway, keys
from bursar.testing.provider import Provider

SINCE, UNTIL = "2026-11-02", "2026-11-23"
POLICY = """
[providers.openai]
base_url = "{url}"
key = "sk-operators-own"
[ledger]
compact_every_s = 0
[[budget]]
name = "tenants"
scope = "tenant"
limit = "$50"
[[budget]]
name = "globex cap"
scope = {{tenant = "globex"}}
limit = "$70"
[[budget]]
name = "company"
scope = "all"
limit = "$90"
{more}
"""


BODY = json.dumps({"model": "gpt-5-mini", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 30}).encode()


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of a refusal; that it has a reason and a remedy too is looked at here, for all of them."""
        said = self.json["error"]
        assert set(said) == {"code", "reason", "remedy"} and all(said.values())
        return said["code"]


class Gateway(NamedTuple):
    handle: gateway.Handle
    ledger: Path
    config: Path
    keys: Mapping[str, str]
    provider: Provider

    def ask(self, path: str, key: str = "", /, *, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None,
            **params: Any) -> Answer:  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", self.handle.port, timeout=120)
        target = path if path.startswith("/") else f"/bursar/v1/{path}"
        if params:
            target += "?" + urlencode(params, doseq=True)
        given = {**({"authorization": f"Bearer {self.keys.get(key, key)}"} if key else {}), **(headers or {})}
        connection.request(method, target, body, given)
        answer = connection.getresponse()
        found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        return found

    def post(self, path: str, key: str = "", /, **members: Any) -> Answer:
        return self.ask(path, key, method="POST", body=json.dumps(members).encode(), headers={"content-type": "application/json"})


@contextmanager
def served(folder: Path, more: str = "", count: int = 300) -> Iterator[Gateway]:
    """Keys by name: `viewer` and `operator` of everything, `acme` and `acme-op` bound to that tenant, `plain` without a role."""
    ledger = folder / "ledger"
    ledger_rows.write(ledger, ledger_rows.month(count=count, huge=False))
    connection = connect(Place.at(ledger), busy_ms=1000)
    incidents.write(connection, [
        Incident(f"k{n}", ledger_rows.END - n, "stopped", "runaway_loop", f"{tenant} went round", tenant=tenant, conversation=f"talk-{tenant}",
                 state="open")
        for n, tenant in enumerate(("acme", "globex"))
    ])  # fmt: skip
    connection.close()
    made = {}
    for name, role, tenant in (("viewer", "viewer", ""), ("operator", "operator", ""), ("acme", "viewer", "acme"),
                               ("acme-op", "operator", "acme"), ("plain", "", "acme")):  # fmt: skip
        made[name], _ = keys.create(ledger, name, tenant=tenant, role=role, now_us=ledger_rows.END)
    with Provider() as provider:
        config = folder / "bursar.toml"
        config.write_text(POLICY.format(url=provider.url, more=more))
        handle = gateway.serve_in_thread(str(config), ledger)
        gate = Gateway(handle, ledger, config, made, provider)
        try:
            for tenant in ("acme", "globex"):  # so that budgets have a standing
                assert gate.ask("/v1/chat/completions", method="POST", body=BODY, headers={"x-bursar-tenant": tenant}).status == 200
            yield gate
        finally:
            handle.stop()
