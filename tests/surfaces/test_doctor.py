"""`bursar doctor`: each thing a newcomer's set-up can lack is seen and comes with a remedy; a sound one is told so."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

import ledger_rows
from bursar.domain.entry import Hold
from bursar.stores.writer import Ledger
from bursar.surfaces import cli_doctor, keys
from bursar.surfaces.cli import main
from bursar.surfaces.cli_doctor import Sign, examine, filesystem

NOW = ledger_rows.END + ledger_rows.HOUR
LINUX = """\
overlay / overlay rw,relatime 0 0
proc /proc proc rw 0 0
/dev/sda1 /data ext4 rw 0 0
server:/vol /data/shared nfs4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
/dev/sdb1 /mnt/with\\040space xfs rw 0 0
first /twice ext4 rw 0 0
second /twice fuse.sshfs rw 0 0
"""
MACOS = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse)
//guest@nas/books on /Volumes/books (smbfs, nodev, nosuid)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nothing in it, and an environment that says nothing."""
    for name in [*cli_doctor.BASE_URLS, *cli_doctor.PROXIES, "BURSAR_CONFIG", "BURSAR_LEDGER"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BURSAR_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (tmp_path / "bursar.toml").write_text(f"[server]\nport = {free.getsockname()[1]}\n")
    return tmp_path


def signs(env: dict[str, str] | None = None, now: int = NOW, online: bool = False, config: str | None = None) -> dict[str, Sign]:
    """The last sign about each thing, the worst one first."""
    order = {"ok": 0, "note": 1, "finding": 2}
    found = sorted(examine(config, None, env or {}, now, online), key=lambda s: order[s.state])
    return {s.about: s for s in found}


@pytest.mark.parametrize(("path", "mounts", "expected"), [
    ("/srv/me", LINUX, ("/", "overlay")), ("/data/ledger", LINUX, ("/data", "ext4")),
    ("/data/shared/x", LINUX, ("/data/shared", "nfs4")), ("/data/sharedness", LINUX, ("/data", "ext4")),
    ("/mnt/with space/x", LINUX, ("/mnt/with space", "xfs")), ("/twice/x", LINUX, ("/twice", "fuse.sshfs")),
    ("/Users/me", MACOS, ("/", "apfs")), ("/Volumes/books/x", MACOS, ("/Volumes/books", "smbfs")),
    ("/anything", "", ("", "")), ("/anything", "garbage\n\n on (", ("", "")),
])  # fmt: skip
def test_the_file_system_is_the_deepest_mount_that_holds_the_path(path: str, mounts: str, expected: tuple[str, str]) -> None:
    assert filesystem(Path(path), mounts) == expected


@pytest.mark.parametrize(("kind", "state"), [
    ("ext4", "ok"), ("apfs", "ok"), ("xfs", "ok"), ("btrfs", "ok"), ("nfs4", "finding"), ("cifs", "finding"), ("smbfs", "finding"),
    ("fuse.sshfs", "finding"), ("fuseblk", "finding"), ("overlay", "finding"), ("tmpfs", "finding"), ("", "note"),
])  # fmt: skip
def test_network_and_passing_file_systems_are_findings(kind: str, state: str) -> None:
    sign = cli_doctor.disk_kind("/x", kind)
    assert sign.state == state
    assert bool(sign.remedy) == (state == "finding")


def test_a_fresh_machine_has_nothing_to_fix_but_perhaps_its_disk(home: Path) -> None:
    findings = [s for s in examine(None, None, {}, NOW, False) if s.state == "finding" and not s.about.startswith("disk")]
    assert findings == []


def test_every_finding_has_a_remedy(home: Path) -> None:
    (home / "bursar.toml").write_text("nonsense = 1\n")
    found = examine(None, None, {"OPENAI_BASE_URL": "https://elsewhere.example/v1", "HTTPS_PROXY": "http://p:1"}, 0, False)
    assert {s.about for s in found if s.state == "finding"} >= {"policy", "clock", "base URLs"}
    assert all(s.remedy for s in found if s.state == "finding")


def test_a_policy_that_cannot_be_used_is_told_with_file_and_line_and_the_rest_is_still_looked_at(home: Path) -> None:
    (home / "bursar.toml").write_text("[server]\nprot = 1\n")
    found = signs()
    assert found["policy"].state == "finding"
    assert "bursar.toml:2" in found["policy"].what
    assert found["python"].state == "ok"


def test_a_port_that_is_taken_is_a_finding(home: Path) -> None:
    assert signs()["port"].state == "ok"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (home / "bursar.toml").write_text(f"[server]\nport = {taken.getsockname()[1]}\n")
        assert signs()["port"].state == "finding"


def test_a_base_url_that_passes_the_gateway_by_is_a_finding_and_never_shows_credentials(home: Path) -> None:
    sign = signs({"OPENAI_BASE_URL": "https://me:hunter2@elsewhere.example/v1"})["base URLs"]
    assert sign.state == "finding"
    assert "elsewhere.example" in sign.what
    assert "hunter2" not in repr(sign)
    (home / "bursar.toml").write_text("[server]\nport = 8799\n")
    assert signs({"OPENAI_BASE_URL": "http://localhost:8799/v1"})["base URLs"].state == "ok"


def test_provider_keys_are_counted_and_never_shown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert signs()["provider keys"].state == "note"
    sign = signs({"OPENAI_API_KEY": "sk-very-secret"})["provider keys"]
    assert (sign.state, "openai" in sign.what, "sk-very" in sign.what) == ("ok", True, False)
    monkeypatch.delenv("MISSING_KEY", raising=False)
    (home / "bursar.toml").write_text('[providers.ours]\nbase_url = "https://x.example"\nkey = "env:MISSING_KEY"\n')
    sign = next(s for s in examine(None, None, {}, NOW, False) if s.about == "provider keys" and s.state == "finding")
    assert "MISSING_KEY" in sign.what


def test_a_clock_that_is_years_off_or_behind_the_ledger_is_a_finding(home: Path) -> None:
    assert signs(now=NOW)["clock"].state == "ok"
    assert signs(now=0)["clock"].state == "finding"
    ledger_rows.write(home / "home" / "ledger", ledger_rows.month(count=10, huge=False))
    assert signs(now=NOW)["clock"].state == "ok"
    assert signs(now=ledger_rows.START)["clock"].state == "finding"


def test_holds_left_over_by_dead_processes_are_a_finding(home: Path) -> None:
    row = ledger_rows.month(count=1, huge=False)[0]
    with Ledger.open(home / "home" / "ledger", clock_us=lambda: NOW) as ledger:
        ledger.hold(Hold(row.id, NOW, 1000, (), row))
        assert signs(now=NOW)["holds"].state == "ok"
        later = signs(now=NOW + 3 * ledger_rows.HOUR)["holds"]
        assert later.state == "finding"
        assert "1 older than an hour" in later.what


def test_key_files_that_others_can_read_are_a_finding(home: Path) -> None:
    folder = home / "home" / "ledger"
    keys.create(folder, "one", now_us=NOW)
    assert signs()["virtual keys"] == Sign("virtual keys", "ok", "1 known")
    os.chmod(folder / "pepper", 0o644)
    assert "chmod 600" in signs()["virtual keys"].remedy
    os.chmod(folder / "pepper", 0o600)
    (folder / "keys.json").write_text("{")
    assert signs()["virtual keys"].state == "finding"


def test_a_ledger_that_is_not_one_is_a_finding_not_a_traceback(home: Path) -> None:
    folder = home / "home" / "ledger"
    folder.mkdir(parents=True)
    (folder / "ledger.db").write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    assert signs()["holds"].state == "finding"
    (folder / "ledger.db").unlink()
    folder.rmdir()
    folder.write_text("a file")
    assert signs()["ledger"].state == "finding"


def test_a_price_book_older_than_six_weeks_is_a_finding(home: Path) -> None:
    folder = home / "home" / "ledger"
    folder.mkdir(parents=True)
    book = folder / "prices-1-1.bin"
    book.write_bytes(b"")
    os.utime(book, (NOW // 10**6 - 86_400, NOW // 10**6 - 86_400))
    assert signs()["prices"].state == "ok"
    os.utime(book, (NOW // 10**6 - 60 * 86_400, NOW // 10**6 - 60 * 86_400))
    assert "60 days" in signs()["prices"].what


def test_online_tries_the_providers_addresses_and_offline_does_not(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def refuse(address: object, timeout: float) -> None:
        tried.append(address)
        raise OSError("Name or service not known")

    monkeypatch.setattr(cli_doctor.socket, "create_connection", refuse)
    assert "providers" not in signs()
    assert tried == []
    assert signs(online=True)["providers"].state == "finding"
    assert ("api.openai.com", 443) in tried


def test_the_command_ends_with_1_on_a_finding_and_tells_programs_the_same(home: Path) -> None:
    (home / "bursar.toml").write_text("nonsense = 1\n")
    ran = CliRunner().invoke(main, ["doctor"])
    assert (ran.exit_code, "FIX" in ran.stdout) == (1, True)
    ran = CliRunner().invoke(main, ["doctor", "--json"])
    told = json.loads(ran.stdout)
    assert ran.exit_code == 1
    assert told["findings"] == sum(row["state"] == "finding" for row in told["rows"]) >= 1
