"""The dashboard in a test: its own server on a free port, an HTTP client, and the numbers on a page with the rows behind them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import uvicorn
from starlette.testclient import TestClient

from bursar.stores.reader import Reader
from bursar.surfaces.web import asks, blocks
from bursar.surfaces.web.app import Web, make
from bursar.surfaces.web.page_calls import sums_of
from bursar.surfaces.web.pages import INNER, PAGES
from bursar.surfaces.web.shelf import Shelf, dollars, newest_us

ORIGIN = "http://127.0.0.1"
CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome") if Path(path).exists()), "")


def client(ledger: Path, now_us: int, config: Path | None = None) -> TestClient:
    """An HTTP client of the real application."""
    return TestClient(make(Shelf(ledger, config, lambda: now_us)), base_url=ORIGIN, follow_redirects=False)


@contextmanager
def served(ledger: Path, now_us: int, config: Path | None = None) -> Iterator[str]:
    """The dashboard behind a socket; gives its origin."""
    config_ = uvicorn.Config(make(Shelf(ledger, config, lambda: now_us)), host="127.0.0.1", port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config_)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < until, "the server does not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


class Number(NamedTuple):
    """A number on a page that leads somewhere. `raw` is what programs get, None for a shape in a picture; `text` what is read."""

    where: str
    href: str
    raw: Any
    text: str


class Book:
    """Pages as records, asked by URL as the routes do."""

    def __init__(self, ledger: Path, now_us: int, config: Path | None = None) -> None:
        self.shelf = Shelf(ledger, config, lambda: now_us)
        self.web = Web(self.shelf)

    def page(self, url: str) -> blocks.Page:
        name = urlsplit(url).path.strip("/")
        make_ = PAGES[name][1] if name in PAGES else INNER[name]
        with self.shelf.open() as reader:
            made = make_(self._ask(url, reader), reader, self.shelf)
        assert made is not None, url
        return made

    def sums(self, urls: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Of each URL of calls: pico-dollars and number of its rows, as that page says them."""
        found: dict[str, tuple[int, int]] = {}
        with self.shelf.open() as reader:
            for url in dict.fromkeys(urls):
                row = sums_of(self._ask(url, reader), reader)
                found[url] = (dollars(row["money"]), row["n"])
        return found

    def _ask(self, url: str, reader: Reader) -> asks.Ask:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        return asks.read(parts.path.strip("/"), pairs, self.shelf.clock_us(), newest_us=newest_us(reader))


def numbers(page: blocks.Page) -> list[Number]:
    """Every number and every shape with a link to calls."""
    found: list[Number] = []
    for block in page.blocks:
        if isinstance(block, blocks.Tiles):
            found += [Number(f"{page.name} {t.label}", t.href, t.raw, t.text) for t in block.tiles]
        if isinstance(block, blocks.Strip):
            found += [Number(f"{page.name} {block.id}", m.href, None, m.tip) for lane in block.lanes for m in lane.marks]
        if isinstance(block, blocks.Plot):
            found += [Number(f"{page.name} {block.id}", m.href, None, m.tip) for m in block.marks]
        if isinstance(block, blocks.Meters):
            found += [Number(f"{page.name} {m.name}", m.href, None, m.text) for m in block.meters]
    for table in blocks.every_table(page):
        for row in [*table.rows, *([table.total] if table.total else [])]:
            found += [Number(f"{page.name} {table.id} {row[0].text}", c.href, c.raw, c.text) for c in row if c.text != row[0].text]
    return [one for one in found if one.href.startswith("/calls?")]


class Seen(HTMLParser):
    """What a page's HTML consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.hrefs: list[str] = []
        self.ids: list[str] = []
        self.scripts = 0
        self.handlers: list[str] = []
        self.styles = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.hrefs += [given["href"] or ""] if tag == "a" and "href" in given else []
        self.ids += [given["id"] or ""] if "id" in given else []
        self.scripts += tag == "script"
        self.styles += tag == "style" or "style" in given
        self.handlers += [name for name in given if name.startswith("on")]

__all__ = ["CHROMIUM", "INNER", "PAGES", "Book", "Number", "Seen", "client", "numbers", "parse_qsl", "served", "urlencode", "urlsplit"]
