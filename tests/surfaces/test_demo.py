"""`bursar demo` as a newcomer runs it: a process of its own, two months of traffic, and books that foot."""

from __future__ import annotations

import re
import subprocess
import sys


def test_the_demo_foots_to_the_invoices_last_digit_and_finds_what_was_planted(tmp_path):
    """Exit 0 means: ledger and invoice agree on the total, on every day, on every model."""
    done = subprocess.run(
        [sys.executable, "-m", "bursar", "demo", "--ledger", str(tmp_path / "demo"), "--seed", "7"],
        capture_output=True, text=True, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    ledger, bill = re.findall(r"(?:the ledger|the provider's bill)\s+(\$[\d.]+)", done.stdout)
    assert ledger == bill
    assert max(len(line) for line in done.stdout.splitlines() if str(tmp_path) not in line) <= 80
    for planted in (
        r"customer halcyon-freight +\$\d", r"eval suite pr +\$\d", r"eval suite nightly +\$\d", r"eval suite weekly +\$\d",
        r"embedding catalogue +\$\d", r"asking again after lookup_order failed +\$\d", r"calls in a loop +\$\d",
        r"falling back, claude-haiku-4-5 -> claude-opus-4-1 +\$\d", r"the SDK's own retries +\$\d", r"at 15x\s+the price",
    ):  # fmt: skip
        assert re.search(planted, done.stdout), planted
    assert len(done.stdout.splitlines()) < 100 and "bursar dashboard --ledger" in done.stdout


def test_the_demo_overwrites_nothing_it_did_not_make(tmp_path):
    """A folder with somebody's ledger in it is left alone, with exit code 2."""
    (tmp_path / "ledger.db").write_bytes(b"precious")
    done = subprocess.run(
        [sys.executable, "-m", "bursar", "demo", "--ledger", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and (tmp_path / "ledger.db").read_bytes() == b"precious"
