"""The pages over HTTP: they add up, every number leads to the rows behind it, programs get the same, and nothing is interpreted."""

from __future__ import annotations

import csv
import io
import json
import random
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import pytest
import web_rig
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from web_rig import Book, Seen, numbers

import demo_rows
import ledger_rows
from bursar.domain.entry import Entry
from bursar.domain.incident import Incident
from bursar.domain.money import plain, show, usd
from bursar.stores import incidents
from bursar.stores.query import DIMENSIONS, Filter
from bursar.stores.reader import Reader
from bursar.stores.schema import opened, transaction
from bursar.stores.writer import Ledger
from bursar.surfaces import tables
from bursar.surfaces.cli import main
from bursar.surfaces.web import asks, blocks
from bursar.surfaces.web.pages import PAGES, safe_path
from bursar.testing import company

NOW = 1_793_600_000_000_000  # 2026-11-02: October is over, and November has no row
FOLLOWED = 24  # links of a page that are followed, by chance; `make fuzz` follows all


MONTH = ledger_rows.month(count=700)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "ledger"
    demo_rows.write(folder)
    (folder / "bursar.toml").write_text(company.POLICY)
    return folder


@pytest.fixture(scope="module")
def trouble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three weeks with every kind of row, hostile labels, and sums beyond 64 bits of pico-dollars."""
    folder = tmp_path_factory.mktemp("trouble") / "ledger"
    ledger_rows.write(folder, MONTH)
    return folder


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty") / "ledger"
    Ledger.open(folder, node="test", clock_us=lambda: NOW).close()
    return folder


@pytest.fixture(scope="module")
def web(demo: Path) -> TestClient:
    return web_rig.client(demo, NOW, demo / "bursar.toml")


# -- every page ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_every_page_answers_on_the_demo_with_a_json_twin(web: TestClient, name: str) -> None:
    """HTML for people, one document for programs, and neither takes more than a page should weigh."""
    page = web.get(f"/{name}")
    assert page.status_code == 200, page.text[:300]
    assert len(page.content) < 1_500_000
    seen = Seen(page.text)
    assert seen.scripts == 1 and not seen.handlers and not seen.styles, "a script, handler or style that is not in our files"
    assert len(seen.ids) == len(set(seen.ids)), "an id twice"
    twin = web.get(f"/{name}.json").json()
    assert twin["page"] == name and isinstance(twin["rows"], list)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_says_what_to_do_where_there_is_nothing(empty: Path, tmp_path: Path, name: str) -> None:
    """An empty ledger, and none at all: no error, and a sentence that helps."""
    for ledger in (empty, tmp_path / "none"):
        web = web_rig.client(ledger, NOW)
        page = web.get(f"/{name}")
        assert page.status_code == 200, page.text[:300]
        assert "<h1>" in page.text and web.get(f"/{name}.json").status_code == 200
    assert "bursar demo" in page.text


def test_without_a_period_a_page_is_about_the_newest_month_that_has_rows(web: TestClient) -> None:
    """On the second of November a dashboard that shows an empty November answers nothing."""
    found = web.get("/bill.json").json()
    assert (found["since"], found["until"]) == ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z")
    assert found["figures"]["total"] == web.get("/bill.json?since=2026-10").json()["figures"]["total"]


def test_what_stopped_calls_could_have_cost_is_of_all_of_them(tmp_path: Path) -> None:
    """However many incidents there are: the page lists the newest and adds all, those of which only a day's sum is left too."""
    with Ledger.open(tmp_path, node="test", clock_us=lambda: NOW):
        pass
    day = NOW - 30 * 86_400_000_000
    with opened(tmp_path) as connection, transaction(connection):
        incidents.write(connection, [
            Incident(f"k{n}", day + n, "stopped" if n % 2 else "warned", "budget_exceeded", "why", "team", f"t{n % 3}", kept=n * 10**9)
            for n in range(3_000)
        ])  # fmt: skip
        incidents.sum_up(connection, 0, most=2_400)
    web = web_rig.client(tmp_path, NOW)
    web_page, kept = web.get("/guards?since=2026-10").text, sum(n * 10**9 for n in range(1, 3_000, 2))
    assert web.get("/guards.json?since=2026-10").json()["figures"]["stopped"] in (1_500, "1500")
    assert f"could have cost up to {tables.money(kept)}" in web_page and "the newest 25 of 3,000" in web_page
    one = sum(n * 10**9 for n in range(600, 3_000) if n % 2 and n % 3 == 1)
    assert f"could have cost up to {tables.money(one)}; without older ones" in web.get("/guards?since=2026-10&tenant=t1").text
    said = CliRunner().invoke(main, ["guard", "incidents", "--where", "tenant=t1", "--ledger", str(tmp_path)]).output
    assert f"The newest 200 of 800; in all 800 calls, at most {tables.money(sum(n * 10**9 for n in range(601, 3_000, 3)))} stopped" in said


# -- numbers lead to their rows --------------------------------------------------------------------------------------------


def _check(book: Book, url: str, most: int) -> int:
    """Follow at most so many links of a page, by chance; gives how many there are."""
    found = numbers(book.page(url))
    chance = random.Random(url)
    taken = [one for one in found if isinstance(one.raw, str) and "$" in one.text]
    taken = chance.sample(taken, min(most, len(taken)))
    shapes = [one for one in found if one.raw is None]
    taken += chance.sample(shapes, min(most // 2, len(shapes))) + [one for one in found if isinstance(one.raw, int)]
    sums = book.sums(one.href for one in taken)
    for one in taken:
        cost, rows = sums[one.href]
        if isinstance(one.raw, int):
            assert 0 < one.raw <= rows or one.raw == rows == 0, one
        elif one.raw is None:
            assert any(show(cost, places) in one.text for places in (2, 4, 6)), (one, cost)
        else:
            assert abs(usd(one.raw)) == abs(cost), (one, cost)
    return len(found)


@pytest.mark.parametrize("url", ["/bill?since=2026-10", "/bill?since=2026-10&by=tenant&operation=retry&operation=eval", "/why?since=2026-10",
                                 "/tools?since=2026-10", "/conversations?since=2026-10", "/savings", "/guards?since=2026-10"])  # fmt: skip
def test_every_number_leads_to_rows_that_sum_to_it(demo: Path, url: str) -> None:
    """Through the very URL on the page, to the last digit."""
    assert _check(Book(demo, NOW, demo / "bursar.toml"), url, FOLLOWED) or url == "/savings"


@pytest.mark.parametrize("by", ["tenant", "model", "label:team", "turn"])
def test_numbers_lead_to_their_rows_among_every_kind_of_trouble(trouble: Path, by: str) -> None:
    """Corrections, unpriced and refused rows, nobody's labels, hostile ones, and dollars that no 64 bits hold."""
    assert _check(Book(trouble, ledger_rows.END), f"/bill?since=30d&by={by}", FOLLOWED)


@pytest.mark.fuzz
def test_every_link_of_every_page_leads_to_rows_that_sum_to_it(demo: Path, trouble: Path) -> None:
    """All of them, not a sample."""
    book = Book(demo, NOW, demo / "bursar.toml")
    for url in ("/bill?since=2026-10", "/bill?since=all&by=model", "/bill?since=2026-10&by=user", "/why?since=2026-10", "/tools?since=all", "/conversations?since=all"):
        _check(book, url, 100_000)
    for by in ("tenant", "feature", "operation", "model", "cause", "label:team", "label:pr", "status", "turn", "http_status"):
        _check(Book(trouble, ledger_rows.END), f"/bill?since=30d&by={by}", 100_000)


def test_the_parts_of_the_bill_are_the_bill(trouble: Path) -> None:
    """Every dollar is in exactly one part of the picture."""
    rows = MONTH
    found = web_rig.client(trouble, ledger_rows.END).get("/bill.json?since=30d").json()
    parts = {row["part"]: usd(row["cost"]) for row in found["tables"]["layers"]["rows"]}
    assert sum(parts.values()) == sum(row.cost or 0 for row in rows) == usd(found["figures"]["total"])
    assert parts["eval"] == sum(row.cost or 0 for row in rows if row.operation == "eval")


# -- two hundred questions -------------------------------------------------------------------------------------------------

BYS = ("tenant", "feature", "flow", "operation", "model_served", "status", "cause", "price_status", "label:team", "label:pr", "provider")


def _value(row: Entry, name: str) -> str:
    return json.loads(row.labels).get(name[6:], "") if name.startswith("label:") else str(getattr(row, name))


def test_two_hundred_random_questions_are_answered_as_plain_addition_answers_them(trouble: Path) -> None:
    """Label, filters and period by chance; lines, total and counts from a loop over the rows: difference 0."""
    chance = random.Random(7)
    rows = MONTH
    web = web_rig.client(trouble, ledger_rows.END)
    for number in range(200):
        by = chance.choice(BYS)
        where = [(name, _value(chance.choice(rows), name), chance.random() < 0.3) for name in chance.sample(BYS, chance.choice((0, 0, 1, 2)))]
        since = ledger_rows.START + chance.randrange(0, 18) * ledger_rows.DAY
        until = since + chance.randrange(1, 9) * ledger_rows.DAY
        pairs = [("by", by), ("since", asks.periods.iso(since)), ("until", asks.periods.iso(until))]
        pairs += [(("!" if negate else "") + name, value) for name, value, negate in where]
        mine = [
            row for row in rows
            if since <= row.ts < until and all((_value(row, name) == value) != negate for name, value, negate in where)
        ]  # fmt: skip
        sums: dict[str, int] = defaultdict(int)
        for row in mine:
            sums[_value(row, by)] += row.cost or 0
        found = web.get("/bill.json", params=pairs).json()
        if not any(row.cost for row in mine) and not sum(row.try_no == 1 and row.attempt_kind != "correction" for row in mine):
            continue
        assert usd(found["figures"]["total"]) == sum(sums.values()), (number, pairs)
        lines = {row[by]: usd(row["cost"]) for row in found["tables"]["by"]["rows"] if row[by] is not None}
        rest = [usd(row["cost"]) for row in found["tables"]["by"]["rows"] if row[by] is None]
        assert all(sums[value] == cost for value, cost in lines.items()), (number, pairs)
        assert sum(lines.values()) + sum(rest) == sum(sums.values())
        if number % 10 == 0:  # the page says the same
            html = web.get("/bill", params=pairs).text
            assert f">{tables.money(sum(sums.values()))}<" in html


def test_percentiles_of_a_page_are_numbers_that_occur_where_sorting_finds_them(trouble: Path) -> None:
    """Half and 95 of 100 of each model's tries took at most so many milliseconds; from counts, as from the rows themselves."""
    found = web_rig.client(trouble, ledger_rows.END).get("/tools.json?since=30d").json()["tables"]["models"]["rows"]
    assert len(found) > 3
    for row in found:
        waits = sorted(one.latency_ms for one in MONTH if one.model_served == row["model"] and one.latency_ms is not None)
        wanted = [waits[-(-len(waits) * share // 100) - 1] if waits else None for share in (50, 95)]
        assert [row["p50_ms"], row["p95_ms"]] == wanted, row["model"]


# -- CSV -------------------------------------------------------------------------------------------------------------------


def test_every_table_is_a_csv_that_reads_back_as_its_json(web: TestClient) -> None:
    """The same rows, cell by cell."""
    for name in ("bill", "why", "conversations", "tools", "calls", "guards"):
        found = web.get(f"/{name}.json").json()
        for table, content in found["tables"].items():
            text = web.get(f"/{name}.csv", params={"table": table}).text
            lines = list(csv.DictReader(io.StringIO(text, newline="")))
            assert len(lines) == len(content["rows"]), (name, table)
            for line, row in zip(lines, content["rows"]):
                for key, value in line.items():
                    told = row[key] if isinstance(row[key], str) else "" if row[key] is None else str(row[key])
                    assert value.removeprefix("'") == told.removeprefix("'"), (name, table, key)


@given(st.text(max_size=40))
def test_no_cell_of_a_csv_is_a_formula(text: str) -> None:
    """A spreadsheet must not compute what a label says; and a number stays a number."""
    table = blocks.Table("t", "t", (blocks.Column("a", "a"),), [[blocks.Cell(text)]])
    ((_,), (cell,)) = csv.reader(io.StringIO(blocks.as_csv(table), newline=""))
    try:
        Decimal(cell)
    except ArithmeticError:
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cell.removeprefix("'") == text.replace("\0", "\ufffd").removeprefix("'")


# -- URLs ------------------------------------------------------------------------------------------------------------------

VALUES = st.text(max_size=12)
FILTERS = st.lists(st.builds(Filter, st.sampled_from(("tenant", "feature", "label:a b", "label:=&?")), st.lists(VALUES, min_size=1, max_size=3, unique=True).map(tuple),
                             st.booleans()), max_size=4, unique_by=lambda f: (f.name, f.negate))  # fmt: skip


@given(FILTERS, st.integers(0, 2**50), st.integers(1, 2**40))
def test_a_question_read_from_its_own_url_is_the_same_question(where: list[Filter], since: int, length: int) -> None:
    """Filters in any characters, times to the microsecond: what can be shared is what was asked."""
    span = asks.periods.Period(since, since + length)
    ask = asks.Ask("bill", tuple(where), period=span)
    url = ask.rows()
    again = asks.read("calls", web_rig.parse_qsl(web_rig.urlsplit(url).query, keep_blank_values=True), NOW, newest_us=None)
    assert set(again.where) == set(where)
    assert (again.period.since, again.period.until) == (since, since + length)


@given(FILTERS, FILTERS, VALUES, VALUES)
def test_narrowing_holds_both_conditions(one: list[Filter], other: list[Filter], a: str, b: str) -> None:
    """A row fits the narrowed filters exactly when it fits both."""
    def fits(where: tuple[Filter, ...] | list[Filter]) -> bool:
        row = {"tenant": a, "feature": b}
        return all((row.get(f.name, "") in f.values) != f.negate for f in where)

    assert fits(asks.narrow(one, other)) == (fits(one) and fits(other))


@pytest.mark.parametrize(
    ("since", "zone", "first", "last"),
    [
        ("month", "Europe/Berlin", "2026-10-31T23:00:00Z", None),
        ("last month", "Europe/Berlin", "2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"),  # an hour longer: the clocks went back
        ("yesterday", "America/New_York", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"),
        ("2026-10-01T00:00:00Z", "Asia/Tokyo", "2026-10-01T00:00:00Z", None),
    ],
)
def test_periods_begin_at_the_viewers_own_midnight(since: str, zone: str, first: str, last: str | None) -> None:
    """Also on the days on which the clocks change."""
    now = asks.periods.period("2026-11-02T12:00:00Z", None, NOW).since
    assert now is not None
    found = asks.local_period(since, "", now, zone)
    assert found.since is not None and asks.periods.iso(found.since) == first
    assert (found.until and asks.periods.iso(found.until)) == last


def test_the_lines_in_time_are_the_days_of_the_zone_and_miss_none(demo: Path) -> None:
    """31 days in October wherever one lives, each with its own bounds, and they add up."""
    for zone in ("UTC", "Europe/Berlin", "America/New_York"):
        plot = next(b for b in Book(demo, NOW).page(f"/bill?since=2026-10&zone={zone}").blocks if isinstance(b, blocks.Plot))
        assert len(plot.table.rows) == 31
        spans = [asks.cell_span(f"2026-10-{day:02d}", "day", zone) for day in range(1, 32)]
        assert all(a[1] == b[0] for a, b in zip(spans, spans[1:]))
        assert plot.table.total is not None
        assert sum(usd(row[-1].raw) for row in plot.table.rows) == usd(plot.table.total[-1].raw)


@pytest.mark.parametrize("bad", ["/bill?nonsense=1", "/bill?since=tomorrow", "/bill?zone=Mars/Base", "/calls?of=tokens", "/calls?sort=; DROP", "/calls?page=x",
                                 "/bill?turn=one", "/bill?since=2026-10-02&until=2026-10-01", "/bill?by=nonsense", "/bill?" + "tenant=a&" * 70])  # fmt: skip
def test_what_cannot_be_asked_is_said_and_nothing_breaks(web: TestClient, bad: str) -> None:
    """400 with a sentence, in HTML and JSON."""
    assert web.get(bad).status_code == 400
    page, _, query = bad.partition("?")
    assert web.get(f"{page}.json?{query}").json()["error"]["text"]


def test_the_filter_form_becomes_a_clean_url(web: TestClient) -> None:
    """What was picked is a pair of the URL that can be shared; empty fields go; what was in force stays."""
    answer = web.get("/bill?since=month&from=&name=team&value=red%26co&tenant=acme&by=feature")
    assert answer.status_code == 303
    pairs = dict(web_rig.parse_qsl(web_rig.urlsplit(answer.headers["location"]).query, keep_blank_values=True))
    assert pairs == {"since": "month", "tenant": "acme", "by": "feature", "label:team": "red&co"}


def test_label_pickers_complete_with_the_ledgers_own_values(web: TestClient) -> None:
    """By what was typed, dearest first, free labels too."""
    found = [row["value"] for row in web.get("/values.json?name=tenant&q=h").json()["rows"]]
    assert found == ["halcyon-freight"]
    assert "internal" in [row["value"] for row in web.get("/values.json?name=tenant&q=").json()["rows"]]


# -- one row ---------------------------------------------------------------------------------------------------------------


def test_the_rows_of_a_number_open_into_one_row_with_legs_labels_and_evidence(demo: Path, web: TestClient) -> None:
    """Three clicks from the bill to the price of a token."""
    first = Seen(web.get("/bill?since=2026-10").text)
    rows = next(href for href in first.hrefs if href.startswith("/calls?") and "operation=fallback" in href)
    one = next(href for href in Seen(web.get(rows).text).hrefs if href.startswith("/call?"))
    found = web.get(one.replace("/call?", "/call.json?")).json()
    row = found["row"]
    assert row["operation"] == "fallback" and row["evidence"]["cause"]["by"] == "bursar"
    assert sum(usd(leg["amount"]) for leg in found["rows"]) == usd(row["cost"])
    with Reader(demo) as reader:
        assert plain(int(reader.sql("SELECT cost FROM calls WHERE id = ?", [row["id"]])[0]["cost"].scaleb(12))) == row["cost"]


def test_a_row_or_conversation_that_is_not_there_is_not_found(web: TestClient) -> None:
    """404, whatever the name."""
    for path in ("/call?id=nothing", "/conversation?id=nothing", "/call", "/bill.xml", "/nothing"):
        assert web.get(path).status_code == 404, path


@pytest.mark.parametrize("name", ["calls"])
def test_rows_are_sorted_and_turned_over_without_one_missing_or_twice(web: TestClient, name: str) -> None:
    """By cost, page after page: each row once, and never dearer than the one before."""
    url: str | None = "/calls.json?operation=fallback&sort=-cost&since=2026-10"
    costs: list[int] = []
    links: set[str] = set()
    number = 1
    while url:
        found = web.get(url).json()
        costs += [usd(row["cost"]) for row in found["rows"]]
        links |= {row["link"] for row in found["rows"]}
        number += 1
        url = f"/calls.json?operation=fallback&sort=-cost&since=2026-10&page={number}" if len(costs) < found["count"] else None
    assert costs == sorted(costs, reverse=True) and len(links) == len(costs) == found["count"]
    assert plain(sum(costs)) == found["sum"]


# -- what comes from outside -----------------------------------------------------------------------------------------------


def test_only_our_own_names_are_answered_and_every_answer_has_the_headers(web: TestClient) -> None:
    """Another site's name that points here (DNS rebinding) gets nothing."""
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "", "[::2]", "127.0.0.1@evil.example", "evil.example:8788"):
        assert web.get("/bill", headers={"host": host}).status_code == 421, host
    for host in ("127.0.0.1", "localhost:8788", "[::1]:8788"):
        assert web.get("/bill", headers={"host": host}).status_code == 200, host
    for path in ("/bill", "/bill.json", "/nothing", "/static/bursar.js", "/static/nothing", "/login"):
        lines = web.get(path).headers
        assert "script-src 'self'" in lines["content-security-policy"] and "unsafe" not in lines["content-security-policy"]
        assert lines["x-content-type-options"] == "nosniff" and lines["referrer-policy"] == "same-origin"


SPELLINGS = ["//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example", "http:evil.example", "javascript:alert(1)",
             "/bill\n//evil", "/%2f/evil.example", "/bill/../../evil", " //evil.example", "/\t/evil.example", "evil.example", "", "/login", "/act/stop", "//bill",
             "/bill@evil.example", "/nothing", "data:text/html,x"]  # fmt: skip


@pytest.mark.parametrize("text", SPELLINGS)
def test_no_spelling_leads_to_another_site_after_the_log_in(text: str) -> None:
    """Anything but a page of ours becomes the bill."""
    assert safe_path(text) == "/bill"
    assert safe_path("/calls?tenant=a&since=7d") == "/calls?tenant=a&since=7d"


def test_names_of_columns_are_never_pasted(web: TestClient) -> None:
    """A name that is no column is refused; one of a free label is bound, whatever it says."""
    for name in ('tenant" OR 1=1 --', "tenant'; DROP TABLE tail; --", "1", "*"):
        assert web.get("/bill", params={"by": name}).status_code == 400
        assert web.get("/bill", params={"by": f"label:{name}"}).status_code == 200
    assert "label:x" not in DIMENSIONS
