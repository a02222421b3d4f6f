"""The documentation is true: every example runs, every link leads somewhere, and everything there is has its line."""

from __future__ import annotations

import html
import http.client
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args

import click
import msgspec
import pytest
from click.testing import CliRunner

import bill_pages
import demo_rows
import ledger_rows
from bursar.domain.entry import COLUMNS
from bursar.domain.incident import Incident
from bursar.domain.labels import CHARGEABLE, OPERATIONS
from bursar.domain.policy import Fragment, Policy
from bursar.domain.verdict import CODES
from bursar.rules.alarm_policy import METRICS
from bursar.stores import incidents
from bursar.stores.columns import shown
from bursar.stores.schema import Place, connect
from bursar.stores.writer import Ledger
from bursar.surfaces import fragments, keys, settings, wiring
from bursar.surfaces.api.app import WAYS
from bursar.surfaces.api.asked import TIMES
from bursar.surfaces.cli import main
from bursar.surfaces.gateway import serve_in_thread
from bursar.surfaces.policy_text import Source, decode
from bursar.testing import causes
from bursar.testing.provider import Provider
from bursar.testing.scenario import Cause
from bursar.testing.script import FAULTS, Say
from bursar.wire.question import LEFT_OUT
from imports import samples

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "docs"))
import session

ROOT = Path(__file__).resolve().parent.parent.parent
SRC = ROOT / "src" / "bursar"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs" / "reference"
# These run until they are told to stop, or for minutes; their own tests run them. Here their options are checked.
ENDLESS = ("serve", "run", "demo", "watch")
COMMON = {"--json", "--ledger", "--since", "--until", "--where", "--help"}


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str

    @property
    def at(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text("utf-8").splitlines()
    start = None
    for number, line in enumerate(lines):
        if line.startswith("```"):
            if start is None:
                start = number
            else:
                language, *words = lines[start][3:].split() or [""]
                yield Block(page, start + 1, language, tuple(words), "\n".join(lines[start + 1 : number]))
                start = None
    assert start is None, f"{page}:{(start or 0) + 1}: a fence is never closed"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose ledger has a small month in it, and the demo's two months beside it."""
    home = tmp_path_factory.mktemp("home")
    rows = ledger_rows.month(count=200, huge=False)
    ledger_rows.write(home / "ledger", rows)
    samples.write(home / "work")
    demo_rows.write(home / "work" / "demo-ledger")
    costs, usage = bill_pages.pages(rows, ledger_rows.END - 3 * ledger_rows.DAY, 3, more=20_000)
    (home / "work" / "costs.json").write_text(costs, "utf-8")
    (home / "work" / "usage.json").write_text(usage, "utf-8")
    (home / "work" / "company.toml").write_text('[[budget]]\nname = "company"\nscope = "all"\nlimit = "$50"\n', "utf-8")
    (home / "work" / "guarded.toml").write_text(
        '[guard]\nrepeats_max = 6\n[[budget]]\nname = "day"\nscope = "tenant"\nlimit = "$50"\nwindow = "day"\n', "utf-8"
    )
    connection = connect(Place.at(home / "ledger"), busy_ms=1_000)
    stopped = Incident("loop", ledger_rows.END, "stopped", "runaway_loop", "went round", conversation="c-1041", state="open")
    incidents.write(connection, [stopped])
    connection.close()
    return home


@pytest.fixture
def here(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BURSAR_HOME", str(prepared))
    for variable in ("BURSAR_LEDGER", "BURSAR_CONFIG", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(wiring, "now_us", lambda: ledger_rows.END + ledger_rows.HOUR)
    monkeypatch.chdir(prepared / "work")
    return prepared


def commands(block: Block) -> Iterator[tuple[list[str], str]]:
    """(words of a command, the output shown under it), with continued lines joined."""
    text = block.text.replace("\\\n", " ")
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield shlex.split(command, comments=True), output.strip("\n")


def bare(text: str) -> str:
    """Without the spaces that tables end their lines with, and editors take away."""
    return "\n".join(line.rstrip() for line in text.splitlines())


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The click command that words name, and what is left for it."""
    command: click.Command = main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        if found is None:
            break
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_console_example_runs(page: Path, here: Path) -> None:
    """`$ bursar …` runs in one home per module; `exit=N|any` says another end than 0, `match` that the output must be as shown
    (`...` for any text). Other programs' commands are for the reader to run."""
    for block in blocks(page):
        if block.language != "console":
            continue
        wanted = next((w.removeprefix("exit=") for w in block.words if w.startswith("exit=")), "0")
        for words, output in commands(block):
            if not words or words[0] != "bursar":
                continue
            if len(words) > 1 and (words[1] in ENDLESS or (words[1] == "dashboard" and not {"accounts", "log"} & set(words))):
                command, rest = resolved(words[1:])
                command.make_context(words[1], rest)
                continue
            ran = CliRunner().invoke(main, words[1:])
            if ran.exception is not None and not isinstance(ran.exception, SystemExit):
                raise AssertionError(f"{block.at}: $ {shlex.join(words)}") from ran.exception
            assert wanted in ("any", str(ran.exit_code)), f"{block.at}: $ {shlex.join(words)}\n{ran.output}"
            if "match" in block.words:
                shown, is_ = bare(output), bare(ran.stdout)
                pattern = ".*".join(re.escape(part.strip("\n")) for part in shown.split("..."))
                assert re.search(pattern, is_, re.DOTALL), f"{block.at}: shown:\n{output}\nis:\n{ran.stdout}"


def test_the_recorded_terminal_session_is_what_the_commands_print(here: Path) -> None:
    """To the letter and colour, at 80 columns. BURSAR_GOLDEN=write records it anew."""
    told = session.record(Path("demo-ledger").resolve())
    for file, draw in session.FILES.items():
        path = ROOT / "docs" / "images" / file
        if os.environ.get("BURSAR_GOLDEN") == "write":
            path.write_text(draw(told), "utf-8")
        assert path.read_text("utf-8") == draw(told), f"{file}: look at what changed, then record it anew"
    printed = "".join(text for _, text in told)
    assert max(len(line) for line in re.sub(r"\x1b\[[\d;]*m", "", printed).splitlines()) <= 80
    for answer in ("customer halcyon-freight", "$401.77", "evals", "$299.76", "asking again after lookup_order failed", "$202.49"):
        assert answer in told[0][1]


def test_the_readmes_picture_shows_the_audit_that_the_demo_ends_with() -> None:
    """Line by line, as the audit is held to be elsewhere. `docs/pictures.py` draws it anew."""
    drawn = (ROOT / "docs" / "images" / "demo.svg").read_text("utf-8")
    lines = {html.unescape(text).replace("\xa0", " ").rstrip() for text in re.findall(r"<text [^>]*>([^<]*)</text>", drawn)}
    told = (ROOT / "tests" / "golden" / "audit-brief.txt").read_text("utf-8").splitlines()
    assert [line.rstrip() for line in told if line.strip() and line.rstrip() not in lines] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_policy_example_is_a_policy(page: Path) -> None:
    """A block `toml title=fragment` is part of a file and only has to be TOML of known keys' shape; `title=include` is a file that
    another one includes."""
    import tomllib

    for block in blocks(page):
        if block.language != "toml":
            continue
        if "title=fragment" in block.words:
            tomllib.loads(block.text)
        elif "title=include" in block.words:
            main = Source("bursar.toml", "")
            fragments.merged(Policy(), main, [fragments.Part(Source(block.at, block.text), decode(Source(block.at, block.text), Fragment))])
        else:
            settings.parse(block.text, block.at)


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.language == "python" for b in blocks(p))], ids=name)
def test_every_python_example_runs_against_the_scripted_provider(page: Path, here: Path) -> None:
    """The blocks of a page are one program. The scripted provider stands where the SDKs' providers would."""
    code = "\n\n".join(b.text for b in blocks(page) if b.language == "python")
    with Provider() as provider:
        ran = subprocess.run(
            [sys.executable, "-c", code],
            env={
                **os.environ,
                "BURSAR_HOME": str(here),
                "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])),
                "OPENAI_BASE_URL": provider.url + "/v1",
                "OPENAI_API_KEY": "scripted",
                "ANTHROPIC_BASE_URL": provider.url,
                "ANTHROPIC_API_KEY": "scripted",
                "GOOGLE_GEMINI_BASE_URL": provider.url,
                "GEMINI_API_KEY": "scripted",
                "SCRIPTED_PROVIDER_URL": provider.url,
            },
            cwd=here / "work",
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert ran.returncode == 0, f"{name(page)}:\n{ran.stdout}\n{ran.stderr}"


@pytest.fixture(scope="module")
def asked(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The port of a gateway on the small month, and an operator's key."""
    folder = tmp_path_factory.mktemp("asked")
    shutil.copytree(prepared / "ledger", folder / "ledger")
    token, _ = keys.create(folder / "ledger", "docs", role="operator", now_us=ledger_rows.END)
    handle = serve_in_thread(str(prepared / "work" / "company.toml"), folder / "ledger")
    yield handle.port, token
    handle.stop()


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.language == "http" for b in blocks(p))], ids=name)
def test_every_http_example_is_answered(page: Path, asked: tuple[int, str]) -> None:
    """A block is a request line and, after an empty line, its JSON; `status=N` says another answer than 200."""
    port, token = asked
    for block in blocks(page):
        if block.language == "http":
            first, _, body = block.text.partition("\n\n")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
            connection.request(*first.split(), body or None, {"authorization": f"Bearer {token}", "content-type": "application/json"})
            answer = connection.getresponse()
            said, wanted = answer.read(), next((w.removeprefix("status=") for w in block.words if w.startswith("status=")), "200")
            assert str(answer.status) == wanted, f"{block.at}: {said.decode()}"
            connection.close()


def test_every_way_of_the_own_api_has_its_line_and_every_line_its_way() -> None:
    """With every parameter that is no time's."""
    lines = {line.split("`")[1]: line for line in (REFERENCE / "api.md").read_text("utf-8").splitlines() if re.match(r"\| `(GET|POST) ", line)}
    ways = {f"{way.method} {re.sub(r'{(n|name|id):[a-z]+}', lambda m: m[1].upper(), way.path)}": way for way in WAYS}
    assert set(lines) == set(ways) | {"POST /traces", "GET /openapi.json"}
    for at, way in ways.items():
        told = set(re.findall(r"`([a-z_]+)`", lines[at])) | set(TIMES)
        assert set(way.takes) <= told and ("operator" in lines[at]) == (way.need == "act"), at


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), f"{name(page)}: {target}"


def first_cells(page: str) -> dict[str, str]:
    """Each name in backticks in the first cell of a table's row, and the rest of that row."""
    found: dict[str, str] = {}
    for line in (REFERENCE / page).read_text("utf-8").splitlines():
        if line.startswith("| `"):
            first, _, rest = line[2:].partition(" |")
            for each in re.findall(r"`([^`]+)`", first):
                found[each] = rest
    return found


def struct_of(kind: object) -> type[msgspec.Struct] | None:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((s for s in map(struct_of, get_args(kind)) if s is not None), None)


def policy_keys() -> set[str]:
    keys: set[str] = set()
    for field in msgspec.structs.fields(Policy):
        inner = struct_of(field.type)
        if inner is None:
            keys.add(field.encode_name)
        else:
            keys |= {f"{field.encode_name}.{sub.encode_name}" for sub in msgspec.structs.fields(inner)}
    return keys


def test_every_policy_setting_has_its_line_and_every_line_its_setting() -> None:
    assert policy_keys() == set(first_cells("policy.md")) - {"providers.NAME"}


def test_every_environment_variable_has_its_line_and_every_line_its_variable() -> None:
    """Ours, wherever the package names one."""
    named = {found for file in (ROOT / "src").rglob("*.py") for found in re.findall(r"BURSAR_[A-Z_]+", file.read_text("utf-8"))}
    assert named == set(first_cells("environment.md"))


def test_every_ledger_column_has_its_line_and_every_line_its_column() -> None:
    assert set(first_cells("ledger-columns.md")) == set(map(shown, COLUMNS))


def test_every_refusal_has_its_line_with_its_status() -> None:
    lines = first_cells("refusals.md")
    assert {code: int(re.findall(r"\d{3}", rest)[0]) for code, rest in lines.items()} == CODES


def test_what_a_cache_key_leaves_out_is_what_the_page_says() -> None:
    """Per dialect, member by member."""
    lines = first_cells("cache-key.md")
    assert {name: frozenset(re.findall(r"`([^`]+)`", lines[name])) for name in LEFT_OUT} == LEFT_OUT


def test_every_label_and_operation_has_its_line() -> None:
    lines = first_cells("headers-and-labels.md")
    assert set(CHARGEABLE) <= set(lines)
    assert all(f"`{operation}`" in lines["operation"] for operation in OPERATIONS)


def test_every_header_of_ours_has_its_line_and_every_line_its_header() -> None:
    known = {f"x-bursar-{label}" for label in CHARGEABLE}
    for path in SRC.rglob("*.py"):
        known |= set(re.findall(r"x-bursar-[a-z]+(?:-[a-z]+)*", path.read_text("utf-8")))
    lines = {header for header in first_cells("headers-and-labels.md") if header.startswith("x-bursar-")}
    assert lines == known


def test_every_metric_has_its_line_and_every_line_its_metric(tmp_path: Path) -> None:
    text = (SRC / "surfaces" / "metrics.py").read_text("utf-8")
    known = {f"{metric}_total" for metric in re.findall(r'CounterMetricFamily\(\s*"(bursar_[a-z_]+)"', text)}
    known |= set(re.findall(r'GaugeMetricFamily\(\s*"(bursar_[a-z_]+)"', text))
    with Ledger.open(tmp_path / "ledger", clock_us=lambda: ledger_rows.END) as ledger:
        known |= {f"bursar_ledger_{stat}" for stat in ledger.stats()}
    known |= {f"bursar_kept_{name}" for name in wiring.NOTHING_KEPT}
    assert set(first_cells("metrics.md")) == known


def test_every_metric_of_alarms_has_its_line_with_unit_and_window() -> None:
    lines = first_cells("alarms.md")
    assert {name for name in lines if name in METRICS} == set(METRICS)
    for name, metric in METRICS.items():
        assert metric.window in lines[name] and (not metric.floor or metric.floor in lines[name]), name


def test_every_fault_cause_and_field_of_the_testing_package_has_its_line() -> None:
    lines = first_cells("testing.md")
    planted = {name for name, kind in vars(causes).items() if isinstance(kind, type) and issubclass(kind, Cause) and kind is not Cause}
    assert set(FAULTS) | planted | set(Say.__slots__) == set(lines)


def tree(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from tree(found, f"{path} {each}")
    if not isinstance(command, click.Group) or command.invoke_without_command or path == "bursar":
        yield path, command


def test_every_command_and_option_has_its_line_and_every_line_its_command() -> None:
    lines = first_cells("cli.md")
    there = dict(tree(main, "bursar"))
    assert {line for line in lines if line.startswith("bursar")} == set(there)
    for path, command in there.items():
        options = {o for p in command.params if isinstance(p, click.Option) for o in p.opts if o.startswith("--")} - COMMON
        told = set(re.findall(r"`(--[a-z-]+)`", lines[path].split("|")[0]))
        assert told == options, path


def test_every_command_takes_the_common_options() -> None:
    for path, command in tree(main, "bursar"):
        if path != "bursar":
            options = {o for p in command.params for o in p.opts}
            assert options >= COMMON - {"--help"}, path
