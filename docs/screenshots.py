"""`make screenshots`: every page of the dashboard on the demo's ledger, in light, dark and on a phone, into docs/pictures/."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "tests" / "surfaces")]

import web_rig  # noqa: E402

import demo_rows  # noqa: E402
from bursar.testing import company  # noqa: E402

NOW = 1_793_600_000_000_000  # 2026-11-02: the demo's second month has just ended
SHOWN = {name: f"{name}?since=2026-10" for name in web_rig.PAGES} | {
    "settings": "settings",
    "conversation": "conversation?id=runaway-2610-00457",
    "call": "call?id=support-2610-00124-15.2",
}
FORGET = """(place) => {
    for (const at of document.querySelectorAll("footer p")) if (at.textContent.startsWith("Ledger")) at.textContent = "";
    for (const at of document.querySelectorAll("dd")) {
        if (at.textContent.includes(place)) at.textContent = at.textContent.replaceAll(`${place}/`, "");
    }
}"""
MODES = {"light": (1200, 800, "light"), "dark": (1200, 800, "dark"), "phone": (390, 844, "light")}


def main() -> int:
    folder = HERE / "pictures"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        ledger = Path(place) / "demo-ledger"
        demo_rows.write(ledger, watched=True)
        policy = Path(place) / "bursar.toml"
        policy.write_text(company.POLICY)
        with web_rig.served(ledger, NOW, policy) as origin, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=web_rig.CHROMIUM, args=["--no-sandbox"])
            for mode, (width, height, scheme) in MODES.items():
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, timezone_id="UTC")
                for name, path in SHOWN.items():
                    page.goto(f"{origin}/{path}")
                    # No machine's own folder belongs into a picture.
                    page.evaluate(FORGET, place)
                    page.screenshot(path=str(folder / f"{name}-{mode}.png"))
                page.close()
            browser.close()
    for made in sorted(folder.glob("*.png")):
        print(f"{made.relative_to(HERE.parent)}  {made.stat().st_size // 1024} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
