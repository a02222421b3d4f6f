"""The pages in Chromium: every page, by mouse, keyboard, screen reader's rules and phone; hostile labels stay text."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import web_rig
from bench import ledger as bench_ledger
from bench import pages

import demo_rows
import ledger_rows
from bursar.domain.entry import Entry
from bursar.domain.incident import Incident
from bursar.domain.usage import Tokens
from bursar.stores import incidents, marks
from bursar.stores.schema import Place, connect
from bursar.stores.writer import Ledger
from bursar.surfaces.web import page_bill, page_calls, page_guards, page_talks, page_tools
from bursar.surfaces.web.pages import PAGES
from bursar.testing import company

if not web_rig.CHROMIUM:
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

Rows = Iterable[Entry]


def write(folder: Path, rows: Rows) -> None:
    """In a thread of its own: Playwright's loop runs in this one."""
    with ThreadPoolExecutor(1) as other:
        other.submit(ledger_rows.write, folder, rows).result()


def until(page: Any, condition: str) -> None:
    """Wait for a condition. Playwright's own waiting is an eval in the page, which the policy forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(50)


NOW = 1_793_600_000_000_000  # 2026-11-02
RUNAWAY = "runaway-2610-00457"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        found = p.chromium.launch(executable_path=web_rig.CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield found
        found.close()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("demo") / "ledger"
    demo_rows.write(folder)
    policy = folder / "bursar.toml"
    policy.write_text(company.POLICY)
    with web_rig.served(folder, NOW, policy) as origin:
        yield origin


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails its test for an error in our script, a report of the policy, or a request that is not to us."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, timezone_id="UTC")
    made = context.new_page()
    troubles: list[str] = []
    made.on("console", lambda line: troubles.append(line.text) if line.type in ("error", "warning") else None)
    made.on("pageerror", lambda error: troubles.append(str(error)))
    made.on("dialog", lambda dialog: (troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    made.on("request", lambda asked: None if asked.url.startswith("http://127.0.0.1:") else troubles.append(f"asked {asked.url}"))
    yield made
    context.close()
    assert troubles == []


@pytest.mark.timeout(300)
def test_no_page_has_a_serious_finding_of_axe_in_light_and_dark(browser: Any, demo: str) -> None:
    """Names, roles, contrast, order: what a machine can check of what a person without eyes or mouse needs."""
    page = browser.new_page(bypass_csp=True, timezone_id="UTC")  # the checker is a script that is not ours
    for name in [*PAGES, f"conversation?id={RUNAWAY}", "call?id=support-2610-00124-15.2"]:
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.goto(f"{demo}/{name}")
            found = axe.Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}).response["violations"]
            bad = [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"][:200]) for v in found if v["impact"] in ("serious", "critical")]
            assert bad == [], (name, scheme)
    page.close()


def test_on_a_phone_no_page_is_wider_than_the_screen(page: Any, demo: str) -> None:
    """Wide tables scroll by themselves; the page does not."""
    page.set_viewport_size({"width": 360, "height": 740})
    for name in [*PAGES, f"conversation?id={RUNAWAY}"]:
        page.goto(f"{demo}/{name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name


def test_from_the_bill_to_one_row_by_keyboard_alone(page: Any, demo: str) -> None:
    """Skip link, into the picture, along it with arrows, with Enter to its rows, and on to one of them."""
    page.goto(f"{demo}/bill?since=2026-10")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.keyboard.press("Enter")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement instanceof SVGAElement"):
            break
    page.keyboard.press("Tab")  # from the visible lane to the multipliers
    first = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert first.startswith("Long context: $") and second.startswith("Retries: $")
    assert page.locator("#tip").inner_text() == second
    page.keyboard.press("Enter")
    page.wait_for_url("**/calls?*operation=retry*")
    assert page.locator("h1").inner_text() == "Calls"
    dollars = second.split(": ")[1].split(",")[0]
    assert dollars in page.locator(".tile .figure").first.inner_text()
    page.locator("tbody a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/call?id=*")
    assert page.locator("h1").inner_text().startswith("Try ")


def test_what_a_column_says_on_hover_is_what_its_rows_sum_to(page: Any, demo: str) -> None:
    """By mouse: the picture, its text, and the rows behind it."""
    page.goto(f"{demo}/bill?since=2026-10")
    page.locator("svg.field a rect").nth(3).hover()
    told = page.locator("#tip").inner_text()
    page.locator("svg.field a").nth(3).click()
    page.wait_for_url("**/calls?*")
    assert told.split(": ")[1].split(" of ")[0] in page.locator(".tile .figure").first.inner_text()


def test_pickers_complete_and_the_url_carries_what_was_picked(page: Any, demo: str) -> None:
    """A label, a value from the ledger, and a link that somebody else can open."""
    page.goto(f"{demo}/bill?since=2026-10")
    page.fill("#name", "tenant")
    page.fill("#value", "hal")
    until(page, "document.querySelector('#l-values').options.length === 1")
    assert page.evaluate("document.querySelector('#l-values').options[0].value") == "halcyon-freight"
    page.fill("#value", "halcyon-freight")
    page.keyboard.press("Enter")
    page.wait_for_url("**/bill?*tenant=halcyon-freight*")
    assert "name=" not in page.url and "tenant is halcyon-freight" in page.locator(".chips").inner_text()
    page.locator(".chips a").click()
    page.wait_for_load_state()
    assert page.locator(".chips").count() == 0


def test_times_are_the_viewers_own(browser: Any, demo: str) -> None:
    """The first view in Tokyo says Tokyo, and its days begin there; a zone in the URL wins."""
    context = browser.new_context(timezone_id="Asia/Tokyo")
    page = context.new_page()
    page.goto(f"{demo}/bill?since=2026-10")
    until(page, "document.body.dataset.zone === 'Asia/Tokyo'")
    assert "Times in Asia/Tokyo" in page.locator("footer").inner_text()
    page.goto(f"{demo}/bill?since=2026-10&zone=Europe/Berlin")
    assert page.evaluate("document.body.dataset.zone") == "Europe/Berlin"
    context.close()


def test_the_theme_is_kept_and_print_hides_what_paper_cannot_do(page: Any, demo: str) -> None:
    """A button for dark; on paper no form and no menu, and every table is there."""
    page.goto(f"{demo}/bill")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("[...document.querySelectorAll('details.twin')].every((d) => d.open)")
    page.emulate_media(media="print")
    assert not page.locator(".filters").is_visible() and not page.locator("nav").is_visible()
    assert len(page.pdf()) > 20_000


def test_figures_renew_themselves_without_a_reload(page: Any, tmp_path: Path) -> None:
    """A row that is booked while somebody looks is in the total a few seconds later."""
    folder = tmp_path / "ledger"
    write(folder, [ledger_rows.entry(1, NOW - 1_000_000, Tokens(input=1_000_000), feature="support")])
    with web_rig.served(folder, NOW) as origin:
        page.clock.install()
        page.goto(f"{origin}/bill?since=24h")
        total = page.locator("[data-cell='tile/total']")
        assert total.inner_text() == "$0.25"
        page.evaluate("window.here = true")
        write(folder, [ledger_rows.entry(2, NOW - 500_000, Tokens(input=1_000_000), feature="support")])
        page.wait_for_timeout(2_100)  # an answer is good for two seconds
        page.clock.fast_forward(6_000)
        until(page, "document.querySelector(\"[data-cell='tile/total']\").textContent.trim() === '$0.50'")
        assert page.locator("[data-cell='by/support'], [data-cell='cell/by/support']").inner_text() == "$0.50"
        assert page.evaluate("window.here")


def test_an_operator_logs_in_and_presses_a_button(page: Any, tmp_path: Path) -> None:
    """The whole way in a browser: log in, stop a tenant, see it said, log out."""
    from bursar.surfaces.web.accounts import Accounts

    folder = tmp_path / "ledger"
    write(folder, [ledger_rows.entry(1, NOW - 1_000_000, Tokens(input=1_000), tenant="acme")])
    Accounts(folder).add("ann", "operator", {}, "a-password-of-ann", "")
    with web_rig.served(folder, NOW) as origin:
        page.goto(f"{origin}/guards")
        page.fill("#name", "ann")
        page.fill("#password", "a-password-of-ann")
        page.keyboard.press("Enter")
        page.wait_for_url("**/guards")
        form = page.locator("form[action='/act/stop']")
        form.locator("[name=name]").fill("tenant")
        form.locator("[name=value]").fill("acme")
        form.locator("[name=reason]").fill("they asked")
        form.get_by_role("button").click()
        page.wait_for_load_state()
        assert "Stopped: tenant=acme" in page.locator(".notice").inner_text()
        assert "stop tenant=acme" in page.locator(".card").first.inner_text()
        page.get_by_role("button", name="Log out").click()
        page.wait_for_url("**/login")


# -- hostile text ----------------------------------------------------------------------------------------------------------

RUNS = "window.ran=1"
SEEDS = [
    "<script>{r}</script>", "<img src=x onerror={r}>", "<svg onload={r}>", "\"><script>{r}</script>", "' onmouseover='{r}", "\" autofocus onfocus={r} x=\"",
    "javascript:{r}", "</title><script>{r}</script>", "</textarea><script>{r}</script>", "<iframe src=javascript:{r}>", "<a href=javascript:{r}>x</a>",
    "{{{{7*7}}}}{r}", "{{% raw %}}{r}", "${{{r}}}", "<!--<script>{r}</script>-->", "<style>@import '//evil.example'</style>{r}", "<link rel=stylesheet href=//evil.example>{r}",
    "<base href=//evil.example>{r}", "<meta http-equiv=refresh content='0;url=//evil.example'>{r}", "<form action=//evil.example>{r}", "<img src=//evil.example/{r}>",
    "<svg><use href=//evil.example#x>{r}", "<math><mi//xlink:href=\"data:x,<script>{r}</script>\">", "<object data=//evil.example>{r}", "<embed src=//evil.example>{r}",
    "\\u003cscript\\u003e{r}", "&lt;script&gt;{r}", "%3Cscript%3E{r}", "<scr\0ipt>{r}</script>", "\u202e<script>{r}</script>", "<details open ontoggle={r}>",
    "<video><source onerror={r}>", "<input autofocus onfocus={r}>", "<body onload={r}>", "<marquee onstart={r}>", "__proto__{r}", "constructor.constructor('{r}')()",
    "']);{r};//", "\n<script>{r}</script>\n", "=cmd|'/c calc'!A1{r}",
]  # fmt: skip
STRINGS = [seed.format(r=RUNS) + (f" {n}" if n else "") for n in range(5) for seed in SEEDS]


def hostile() -> Iterator[Entry]:
    """A row per string, with the string in everything that a stranger says."""
    for n, text in enumerate(STRINGS):
        row = ledger_rows.entry(n, NOW - 3_600_000_000 - n * 60_000_000, Tokens(input=1000 + n, output=10), "gpt-5-mini")
        everywhere = dict.fromkeys(
            ("tenant", "feature", "flow", "user", "conversation", "key", "model_served", "model_requested", "tier", "route_reason", "service_tier",
             "finish", "error", "provider", "request_hash", "prefix_hash", "response_id", "saved_by", "price_id", "node", "flags"), text,
        )  # fmt: skip
        kind = {"operation": "retry", "attempt_kind": "retry", "cause": f"tool:{text}"} if n % 3 == 0 else (
            {"operation": "fallback", "attempt_kind": "fallback", "cause": text} if n % 3 == 1 else {}
        )  # fmt: skip
        evidence = json.dumps({"called": [text], "cause": {"by": text}, text: text})
        yield row._replace(turn=1, saved=1_000, labels=json.dumps({"team": text, text: text}), label_sources=json.dumps({text: text}), evidence=evidence, **everywhere, **kind)


def test_two_hundred_hostile_strings_in_everything_run_nothing_and_ask_nobody(page: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every label, model, error, cause, incident, mark and account, on every page: 0 scripts, 0 reports, 0 requests to others."""
    assert len(set(STRINGS)) == 200
    folder = tmp_path / "ledger"
    write(folder, hostile())
    connection = connect(Place.at(folder), busy_ms=1000)
    incidents.write(connection, [
        Incident(f"k{n}", NOW - 1000 - n, "stopped", text, text, text, text, text, text, text, text, f"c{n:06d}", text, evidence="{}", state="open")
        for n, text in enumerate(STRINGS)
    ])  # fmt: skip
    connection.close()
    for text in STRINGS[:20]:
        marks.add(folder, marks.Mark(NOW - 2_000_000, text), NOW)
    for module, name in ((page_bill, "TOP"), (page_bill, "OVER_TIME_TOP"), (page_tools, "TOP"), (page_talks, "TOP"), (page_guards, "LISTED"), (page_calls, "EACH")):
        monkeypatch.setattr(module, name, 250)  # all strings at once
    page.add_init_script("window.reports = []; addEventListener('securitypolicyviolation', (e) => reports.push(e.violatedDirective + ' ' + e.blockedURI));")
    names = [f"{name}?since=7d" for name in PAGES]
    names += [f"bill?since=7d&by={by}" for by in ("tenant", "model", "cause", "label:team", "conversation")]
    names += [f"call?id=c{n:06d}.1" for n in range(0, 40, 4)]
    with web_rig.served(folder, NOW) as origin:
        names += ["conversation?" + web_rig.urlencode({"id": text}) for text in STRINGS[:40:5]]
        names += ["bill?" + web_rig.urlencode({"since": "7d", f"label:{text}": text}) for text in STRINGS[:40:8]]
        for name in names:
            answer = page.goto(f"{origin}/{name}")
            assert answer.status == 200, (name, page.content()[:500])
            page.mouse.move(600, 300)
            assert page.evaluate("[window.ran ?? 0, window.reports]") == [0, []], name
            assert page.evaluate("[document.scripts.length, document.querySelectorAll('iframe,object,embed,base,style,video,math').length]") == [1, 0], name
            if name.startswith(("calls", "bill?since=7d&by=")) and "label" not in name:
                said = page.evaluate("document.querySelector('main').textContent")
                missing = [text for text in STRINGS if text.replace("\0", "\ufffd") not in said.replace("\0", "\ufffd")]
                assert missing == [] or name.endswith("cause"), name
        page.goto(f"{origin}/bill?since=7d")
        page.fill("#name", "tenant")
        page.fill("#value", "<")
        until(page, "document.querySelector('#l-values').options.length > 10")
        assert page.evaluate("[window.ran ?? 0, window.reports]") == [0, []]


def test_an_empty_ledger_says_what_to_do_on_every_page(page: Any, tmp_path: Path) -> None:
    """In a browser, too, nothing breaks without a row."""
    folder = tmp_path / "ledger"
    Ledger.open(folder, node="test", clock_us=lambda: NOW).close()
    with web_rig.served(folder, NOW) as origin:
        for name in PAGES:
            assert page.goto(f"{origin}/{name}").status == 200
            assert len(page.locator("main").inner_text()) > 60, name


def test_a_month_of_a_million_rows_is_seen_on_every_page_and_leads_to_its_rows(page: Any, tmp_path: Path) -> None:
    """Segments as compaction leaves them; lines of the bill and of the models lead to calls that sum to the very text that was read."""
    pages.build(tmp_path / "ledger", 1_000_000)
    with web_rig.served(tmp_path / "ledger", bench_ledger.END_US) as origin:
        for name in PAGES:
            assert page.goto(f"{origin}/{name}?since=30d").status == 200, name
            assert len(page.locator("main").inner_text()) > 60, name
        for name in ("bill", "tools"):
            page.goto(f"{origin}/{name}?since=30d")
            links = page.locator("main tbody td a")
            told = [(link.get_attribute("href"), link.inner_text()) for link in links.all() if link.inner_text().startswith("$")]
            assert told, name
            for href, dollars in told[:4]:
                page.goto(f"{origin}{href}")
                assert dollars in page.locator(".tile .figure").first.inner_text(), (name, href)
