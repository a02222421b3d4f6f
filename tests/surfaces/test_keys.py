"""Virtual keys: shown once, kept as hashes, binding, revocable within a refresh, safe against half-written files."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.domain.policy import Key
from bursar.surfaces import keys
from bursar.surfaces.keys import REVOKED, KeyFault, KeyRing, Owner
from bursar.surfaces.settings import BadPolicy

NOW = 1_795_000_000_000_000


def make(folder: Path, name: str = "support-bot", **more: object) -> tuple[str, keys.Record]:
    return keys.create(folder, name, now_us=NOW, **more)  # type: ignore[arg-type]


def test_a_new_key_opens_what_it_binds(tmp_path: Path) -> None:
    token, _ = make(tmp_path, tenant="acme", labels={"feature": "support"}, models=["gpt-5-mini"])
    found = KeyRing.load(tmp_path).find(token.encode())
    assert found == Owner("support-bot", {"tenant": "acme", "feature": "support"}, ("gpt-5-mini",))


def test_a_key_has_256_random_bits_and_a_prefix_that_scanners_can_find(tmp_path: Path) -> None:
    token, record = make(tmp_path)
    prefix, public, secret = token.split("_")
    assert (prefix, public) == ("bsr", record.id)
    assert len(bytes.fromhex(secret)) == 32


def test_nothing_on_disk_holds_the_key_and_nothing_on_disk_is_for_others_to_read(tmp_path: Path) -> None:
    token, _ = make(tmp_path)
    secret = token.rpartition("_")[2].encode()
    for path in tmp_path.iterdir():
        assert secret not in path.read_bytes()
        assert bytes.fromhex(secret.decode()) not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_hash_is_an_hmac_under_the_folders_pepper(tmp_path: Path) -> None:
    token, record = make(tmp_path)
    pepper = (tmp_path / "pepper").read_bytes()
    assert record.hash == f"{record.id}:{hmac.new(pepper, token.encode(), hashlib.sha256).hexdigest()}"


@pytest.mark.parametrize("spoil", [
    lambda t: t[:-1], lambda t: t + "0", lambda t: t.upper(), lambda t: t[:-1] + ("0" if t[-1] != "0" else "1"),
    lambda t: "bsr_" + "0" * 12 + t[16:], lambda t: "", lambda t: " " + t, lambda t: t + "\n", lambda t: "sk-" + t[4:],
])  # fmt: skip
def test_anything_but_the_exact_key_opens_nothing(tmp_path: Path, spoil) -> None:
    token, _ = make(tmp_path)
    assert KeyRing.load(tmp_path).find(spoil(token).encode()) is None


@settings(max_examples=200)
@given(st.binary(max_size=120))
def test_any_bytes_can_be_shown_to_a_ring(token: bytes) -> None:
    assert KeyRing(Path("nowhere"), ()).find(token) is None


def test_an_unknown_public_part_costs_the_steps_of_a_known_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One HMAC and one constant-time comparison, whether or not the id exists: counted, since time cannot be asserted."""
    token, _ = make(tmp_path)
    ring = KeyRing.load(tmp_path)
    steps: list[str] = []

    class Counted:
        @staticmethod
        def digest(*given: object) -> bytes:
            steps.append("hmac")
            return hmac.digest(*given)  # type: ignore[arg-type]

        @staticmethod
        def compare_digest(a: bytes, b: bytes) -> bool:
            steps.append(f"compare {len(a)} {len(b)}")
            return hmac.compare_digest(a, b)

    monkeypatch.setattr(keys, "hmac", Counted)
    assert isinstance(ring.find(token.encode()), Owner)
    known, steps[:] = list(steps), []
    assert ring.find(b"bsr_" + b"0" * 12 + token.encode()[16:]) is None
    assert steps == known == ["hmac", "compare 32 32"]


def test_a_revoked_key_is_refused_after_the_next_refresh_and_its_name_is_not_given_out_again(tmp_path: Path) -> None:
    token, _ = make(tmp_path)
    other, _ = make(tmp_path, "other")
    ring = KeyRing.load(tmp_path)
    assert ring.refresh_if_changed() is False
    keys.revoke(tmp_path, "support-bot", now_us=NOW)
    assert ring.refresh_if_changed() is True
    assert ring.find(token.encode()) is REVOKED
    assert isinstance(ring.find(other.encode()), Owner)
    with pytest.raises(KeyFault, match="there is, or was"):
        make(tmp_path)
    with pytest.raises(KeyFault, match="was revoked at"):
        keys.revoke(tmp_path, "support-bot", now_us=NOW)


def test_a_ring_whose_last_key_was_revoked_still_counts_as_a_ring(tmp_path: Path) -> None:
    """A gateway asks keys of its callers while there are any: revoking the last must close it, not open it."""
    make(tmp_path)
    keys.revoke(tmp_path, "support-bot", now_us=NOW)
    assert KeyRing.load(tmp_path)
    assert not KeyRing.load(tmp_path / "elsewhere")


@pytest.mark.parametrize("damage", ["{", "[]", '{"version": 1, "keys": [{"id": "x"}]}', '{"version": 2, "keys": []}',
                                    '{"version": 1, "keys": [], "more": 1}', "\x00\xff"])  # fmt: skip
def test_a_damaged_file_is_refused_at_start_and_changes_nothing_in_a_running_gateway(tmp_path: Path, damage: str) -> None:
    token, _ = make(tmp_path)
    ring = KeyRing.load(tmp_path)
    (tmp_path / "keys.json").write_text(damage)
    assert ring.refresh_if_changed() is False
    assert "keys.json" in ring.fault
    assert isinstance(ring.find(token.encode()), Owner)
    with pytest.raises(KeyFault, match=r"keys\.json"):
        KeyRing.load(tmp_path)
    with pytest.raises(KeyFault, match=r"keys\.json"):
        make(tmp_path, "another")
    assert (tmp_path / "keys.json").read_text() == damage


def test_a_file_that_vanishes_under_a_running_gateway_opens_it_to_nobody(tmp_path: Path) -> None:
    token, _ = make(tmp_path)
    ring = KeyRing.load(tmp_path)
    (tmp_path / "keys.json").unlink()
    assert ring.refresh_if_changed() is False
    assert "vanished" in ring.fault
    assert isinstance(ring.find(token.encode()), Owner)
    make(tmp_path, "back")
    assert ring.refresh_if_changed() is True
    assert ring.fault == ""


def test_a_missing_pepper_is_told_and_never_replaced_while_keys_hang_on_it(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "pepper").unlink()
    with pytest.raises(KeyFault, match="restore it from a backup"):
        KeyRing.load(tmp_path)
    with pytest.raises(KeyFault, match="restore it from a backup"):
        make(tmp_path, "another")
    assert not (tmp_path / "pepper").exists()


def test_a_key_declared_in_the_policy_opens_what_the_policy_says_and_a_revoked_one_stays_revoked(
    tmp_path: Path,
) -> None:
    token, record = make(tmp_path, tenant="acme")
    declared = Key(name="from-policy", hash=record.hash, tenant="globex", labels={"flow": "x"}, models=["m"])
    (tmp_path / "keys.json").unlink()
    assert KeyRing.load(tmp_path, [declared]).find(token.encode()) == Owner("from-policy", {"tenant": "globex", "flow": "x"}, ("m",))
    with pytest.raises(BadPolicy, match="from-policy"):
        KeyRing.load(tmp_path, [Key(name="from-policy", hash="not one")])
    with pytest.raises(KeyFault, match="declared in the policy"):
        keys.revoke(tmp_path, "from-policy", declared=[declared], now_us=NOW)
    with pytest.raises(KeyFault, match="a key named"):
        make(tmp_path, "from-policy", declared=[declared])


def test_a_key_revoked_in_the_folder_is_not_revived_by_the_policy(tmp_path: Path) -> None:
    token, record = make(tmp_path)
    keys.revoke(tmp_path, "support-bot", now_us=NOW)
    ring = KeyRing.load(tmp_path, [Key(name="again", hash=record.hash)])
    assert ring.find(token.encode()) is REVOKED


@pytest.mark.parametrize(("name", "more", "code"), [
    ("", {}, "bad_name"), ("-x", {}, "bad_name"), ("a b", {}, "bad_name"), ("x" * 65, {}, "bad_name"),
    ("a\x1b", {}, "bad_name"),
    ("k", {"tenant": "a\nb"}, "bad_label"), ("k", {"labels": {"x": ""}}, "bad_label"),
    ("k", {"labels": {"": "x"}}, "bad_label"),
    ("k", {"labels": {"x": "v" * 257}}, "bad_label"), ("k", {"labels": {"operation": "lunch"}}, "bad_label"),
    ("k", {"tenant": "a", "labels": {"tenant": "b"}}, "bad_label"), ("k", {"models": [""]}, "bad_model"),
    ("k", {"labels": {f"l{n}": "v" for n in range(17)}}, "bad_label"),
])  # fmt: skip
def test_what_cannot_be_bound_for_ever_is_refused_before_anything_is_written(
    tmp_path: Path, name: str, more: dict[str, object], code: str
) -> None:
    with pytest.raises(KeyFault) as bad:
        make(tmp_path, name, **more)
    assert bad.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_two_commands_at_once_lose_none_of_each_others_keys(tmp_path: Path) -> None:
    threads = [threading.Thread(target=make, args=(tmp_path, f"key-{n}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {r.name for r in keys.listed(tmp_path)} == {f"key-{n}" for n in range(12)}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_folder_that_cannot_be_written_is_told_with_a_remedy(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(KeyFault, match="writable"):
        make(blocked)
    (tmp_path / "ledger").mkdir()
    (tmp_path / "ledger" / "keys.lock").mkdir()
    with pytest.raises(KeyFault, match="writable"):
        make(tmp_path / "ledger")


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    before = (tmp_path / "keys.json").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyFault, match="No space left"):
        make(tmp_path, "another")
    monkeypatch.undo()
    assert (tmp_path / "keys.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys.json", "keys.lock", "pepper"]


def test_a_ledger_named_by_its_file_has_its_keys_beside_it(tmp_path: Path) -> None:
    token, _ = make(tmp_path / "books.db")
    assert isinstance(KeyRing.load(tmp_path).find(token.encode()), Owner)
