"""`bursar run -- COMMAND`: a program that knows nothing of us, and its calls in the ledger."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from decimal import Decimal
from pathlib import Path

import pytest
from wrapped import Bench, bench, prices

import bursar
from bursar.domain.policy import Policy, Provider
from bursar.stores.reader import Reader
from bursar.surfaces.run import environment, forwarding

__all__ = ["bench", "prices"]

PROGRAM = """
    import anthropic, openai
    from google import genai
    hello = [{"role": "user", "content": "hello"}]
    openai.OpenAI().chat.completions.create(model="gpt-5-mini", messages=hello)
    for _ in openai.OpenAI().chat.completions.create(model="gpt-5-mini", messages=hello, stream=True): pass
    anthropic.Anthropic().messages.create(model="claude-haiku-4-5", max_tokens=9, messages=hello)
    client = genai.Client()
    client.models.generate_content(model="gemini-2.5-flash", contents="hello")
"""


def under(bench: Bench, *command: str, **variables: str) -> subprocess.Popen[str]:
    """`bursar run` in a process, its providers where the bench's are."""
    return subprocess.Popen(
        [sys.executable, "-c", "import sys; from bursar.surfaces.run import run; sys.exit(run(sys.argv[2:], ledger=sys.argv[1]))",
         str(bench.ledger), *command],
        env={
            **os.environ, "PYTHONPATH": str(Path(bursar.__file__).parent.parent), "BURSAR_HOME": str(bench.folder),
            "OPENAI_API_KEY": "sk-theirs", "ANTHROPIC_API_KEY": "sk-ant-theirs", "GEMINI_API_KEY": "g-theirs",
            "OPENAI_BASE_URL": bench.url("openai"), "ANTHROPIC_BASE_URL": bench.url("anthropic"),
            "GOOGLE_GEMINI_BASE_URL": bench.url("gemini"), **variables,
        },
        cwd=bench.folder / "ledger", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_an_unchanged_program_on_three_sdks_is_recorded_with_its_own_keys(bench: Bench) -> None:
    process = under(bench, sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROGRAM))
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    with Reader(bench.ledger) as reader:
        rows = reader.sql("select provider, model_requested, status, cost from calls order by ts")
    assert [(r["provider"], r["status"]) for r in rows] == [
        ("openai", "ok"), ("openai", "ok"), ("anthropic", "ok"), ("gemini", "ok")]  # fmt: skip
    keys = [seen.headers.get("authorization") or seen.headers.get("x-api-key") or seen.headers.get("x-goog-api-key")
            for seen in bench.provider.seen]  # fmt: skip
    assert [(key or "").removeprefix("Bearer ") for key in keys] == ["sk-theirs", "sk-theirs", "sk-ant-theirs", "g-theirs"]
    assert "bursar: 4 calls, $" in errors
    assert bursar.spend("provider", ledger=bench.ledger)[0]["cost"] > Decimal(0)


def test_a_wrapped_program_under_run_is_booked_once(bench: Bench) -> None:
    program = "import bursar, openai; bursar.instrument(); c = bursar.wrap(openai.OpenAI())\n"
    program += "c.chat.completions.create(model='gpt-5-mini', messages=[{'role': 'user', 'content': 'hello'}])"
    process = under(bench, sys.executable, "-c", program)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    with Reader(bench.ledger) as reader:
        assert len(reader.sql("select id from calls")) == 1


@pytest.mark.parametrize(
    "command, code, told",
    [
        ((sys.executable, "-c", "raise SystemExit(7)"), 7, "0 calls"),
        (("no-such-command-anywhere",), 127, "no-such-command-anywhere: command not found"),
        ((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"), 137, "0 calls"),
    ],
)
def test_it_exits_as_the_command_does(bench: Bench, command: tuple[str, ...], code: int, told: str) -> None:
    process = under(bench, *command)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert told in errors


def test_sigterm_goes_to_the_command_and_its_rows_land(bench: Bench) -> None:
    program = """
        import openai, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        openai.OpenAI().chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "hello"}])
        time.sleep(60)
    """
    process = under(bench, sys.executable, "-c", textwrap.dedent(program))
    due = time.monotonic() + 60
    while not bench.provider.seen and time.monotonic() < due:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5, errors
    with Reader(bench.ledger) as reader:
        assert [r["status"] for r in reader.sql("select status from calls")] == ["ok"]


def test_base_urls_point_at_the_gateway_and_no_proxy_stands_between() -> None:
    found = environment("http://127.0.0.1:1", {"HTTPS_PROXY": "http://proxy", "NO_PROXY": "internal", "OPENAI_API_KEY": "k"})
    assert found["OPENAI_BASE_URL"] == "http://127.0.0.1:1/openai/v1"
    assert found["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:1/anthropic"
    assert found["GOOGLE_GEMINI_BASE_URL"] == "http://127.0.0.1:1/gemini"
    assert found["NO_PROXY"] == "internal,127.0.0.1"
    assert found["OPENAI_API_KEY"] == "k"


def test_keys_stay_the_callers_unless_the_policy_names_one() -> None:
    """The gateway runs with the command's variables, but must not put them on by itself: the command may have others."""
    policy = forwarding(Policy(providers={"groq": Provider(key="ours")}), {"OPENAI_BASE_URL": "https://mirror.example/v1/"})
    assert policy.providers["openai"].key == "client"
    assert policy.providers["openai"].base_url == "https://mirror.example"
    assert policy.providers["groq"].key == "ours"
