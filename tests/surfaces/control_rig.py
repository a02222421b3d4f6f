"""A real gateway with controls in front of a scripted provider, and a client by hand."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bursar.stores.reader import Reader
from bursar.surfaces import gateway, settings
from bursar.testing.provider import Provider as Scripted


@pytest.fixture
def provider() -> Iterator[Scripted]:
    with Scripted() as scripted:
        yield scripted


@contextmanager
def served(tmp_path: Path, provider: Scripted, policy: str) -> Iterator[Any]:
    places = "\n".join(
        f'[providers.{name}]\nbase_url = "{provider.url}"\nkey = "sk-own"' for name in ("openai", "anthropic", "gemini")
    )
    handle = gateway.serve_in_thread(
        ledger=tmp_path / "ledger", policy=settings.parse(f"{places}\n[ledger]\ncompact_every_s = 0\n{policy}")
    )
    try:
        yield handle
    finally:
        handle.stop()


def post(handle: Any, body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[Any, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", handle.port, timeout=30)
    lines = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request("POST", path, json.dumps(body), lines)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


def rows(tmp_path: Path) -> list[dict[str, Any]]:
    with Reader(tmp_path / "ledger") as reader:
        return reader.sql("select * from calls order by ts, call")


def acme(**more: str) -> dict[str, str]:
    return {"x_bursar_tenant": "acme", **more}
