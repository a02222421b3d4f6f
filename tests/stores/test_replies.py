"""Kept replies: both stores keep the same promises; walls hold, bytes are bounded, a broken file finds nothing."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from random import Random

import apsw
import pytest

from bursar.domain.reply import Kept
from bursar.rules import reuse
from bursar.stores.replies import OVERHEAD, TOUCH_US, FileReplies, MemoryReplies, Replies

HOUR = 3_600_000_000


def reply(text: str = "body", expires: int = HOUR, **more) -> Kept:
    return Kept(text.encode(), False, "gpt-5", 5, expires, **more)


@pytest.fixture(params=["memory", "file"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path):
    made: list[Replies] = []

    def make(bytes_max: int = 1 << 20) -> Replies:
        made.append(MemoryReplies(bytes_max) if request.param == "memory" else FileReplies(tmp_path / "cache" / "replies.db", bytes_max))
        return made[-1]

    yield make
    for store in made:
        store.close()


def test_what_was_put_is_found_until_it_expires(open_store) -> None:
    store = open_store()
    kept = reply("é" * 9, pico=7, call="c1")._replace(stream=True)
    store.put("a", b"k", kept, 10)
    assert store.get("a", b"k", HOUR - 1) == kept
    assert store.get("a", b"k", HOUR) is None
    assert store.get("a", b"other", 10) is None
    store.put("a", b"old", reply(expires=10), 10)
    assert store.get("a", b"old", 9) is None, "what is expired already is not kept"


def test_a_wall_is_looked_at_again_beside_the_key(open_store) -> None:
    """Should two walls ever come to one key, the second is not answered."""
    store = open_store()
    store.put("tenant a", b"k", reply(), 10)
    assert store.get("tenant b", b"k", 11) is None and store.get("tenant a", b"k", 11) is not None


def test_bytes_are_bounded_and_what_was_used_longest_ago_goes(open_store) -> None:
    store = open_store(10 * (OVERHEAD + 100))
    for n in range(8):
        store.put("a", b"%d" % n, reply("x" * 100), n)
    store.get("a", b"0", 3 * TOUCH_US)
    for n in range(8, 60):
        store.put("a", b"%d" % n, reply("x" * 100), 3 * TOUCH_US + n)
        assert store.stats()["bytes"] <= 10 * (OVERHEAD + 100)
        assert store.get("a", b"%d" % n, 3 * TOUCH_US + n) is not None, "the newest is there"
        if n == 10:
            assert store.get("a", b"0", 3 * TOUCH_US + n) is not None, "used lately"
    assert store.get("a", b"1", 10) is None and store.stats()["evicted"] > 0
    store.put("a", b"huge", reply("x" * 100_000), 10)
    assert store.get("a", b"huge", 10) is None and store.stats()["replies"] > 0, "one that would not fit does not push the others out"


def test_a_reply_put_again_is_counted_once(open_store) -> None:
    store = open_store()
    for n in range(5):
        store.put("a", b"k", reply("x" * n), 10)
    assert store.stats() == {"replies": 1, "bytes": OVERHEAD + 4, "evicted": 0, "troubles": 0}


def test_a_purge_forgets_a_wall_or_everything(open_store) -> None:
    store = open_store()
    for n in range(6):
        store.put("ab"[n % 2], b"%d" % n, reply(), 10)
    assert store.purge("a") == 3 and store.stats()["replies"] == 3 and store.get("b", b"1", 11)
    assert store.purge() == 3 and store.stats()["bytes"] == 0


def test_no_wall_is_crossed_in_100_000_tries(open_store) -> None:
    """Forty tenants ask for each other's questions in both stores, under the keys that the rule makes."""
    store, chance = open_store(64 << 20), Random(3)
    on = reuse.Setting(exact=True)
    tenants = [f"t{n}" for n in range(40)]
    walls = [reuse.wall(reuse.Labels(tenant=tenant), "", on) or "" for tenant in tenants]
    keys = [[reuse.key(wall, "openai", "openai_chat", "m", b"", b"q%d" % q) for q in range(50)] for wall in walls]
    for tenant in range(0, 40, 2):
        for q in range(50):
            store.put(walls[tenant], keys[tenant][q], reply(tenants[tenant]), 1)
    tries = 100_000 if isinstance(store, MemoryReplies) else 20_000
    foreign = own = 0
    for _ in range(tries):
        asks, q, other = chance.randrange(40), chance.randrange(50), chance.randrange(40)
        found = store.get(walls[asks], keys[asks][q], 2)
        own += found is not None
        foreign += found is not None and found.body.decode() != tenants[asks]
        foreign += asks != other and store.get(walls[asks], keys[other][q], 2) is not None
    assert foreign == 0 and own > tries // 3


def test_a_nightly_embedding_pays_for_what_has_changed(open_store) -> None:
    """2,000 documents in batches of 100, three in a hundred changed since yesterday: 3 % of the inputs are asked for."""
    import json

    from bursar.wire import batch

    store, chance, on = open_store(64 << 20), Random(11), reuse.Setting(embeddings=True)
    wall = reuse.wall(reuse.Labels(tenant="acme"), "", on) or ""
    documents = [f"document {n} " * 20 for n in range(2_000)]

    def night(now_us: int) -> float:
        asked = total = 0
        for at in range(0, len(documents), 100):
            texts = documents[at : at + 100]
            body = json.dumps({"model": "text-embedding-3-small", "input": texts}).encode()
            found = batch.split("/v1/embeddings", body)
            assert found
            keys = [reuse.key(wall, "openai", "openai_embeddings", "text-embedding-3-small", b"", one) for one in found.inputs]
            known = [store.get(wall, key, now_us) for key in keys]
            missing = [n for n, kept in enumerate(known) if kept is None]
            if missing:
                sent = json.loads(batch.only(body, found, missing))["input"]
                rows = [{"index": n, "embedding": [len(text) / 7, float(hash(text) % 91)]} for n, text in enumerate(sent)]
                vectors = batch.vectors(found, json.dumps({"data": rows}).encode(), len(missing))
                assert vectors
                for n, vector in zip(missing, vectors, strict=True):
                    store.put(wall, keys[n], Kept(vector, False, "e", now_us, now_us + 30 * 24 * HOUR), now_us)
                asked += sum(map(len, sent))
            total += sum(map(len, texts))
        return asked / total

    assert night(1) == 1.0
    for n in chance.sample(range(2_000), 60):
        documents[n] += " (changed)"
    assert 0.029 < night(24 * HOUR) <= 0.035
    assert night(48 * HOUR) == 0.0


# --- the file ---


def write(path: Path, name: int) -> None:
    store = FileReplies(path, busy_ms=10_000)
    for n in range(200):
        store.put("w", b"%d-%d" % (name, n), reply(f"{name}-{n}"), 10)
    assert store.stats()["troubles"] == 0
    store.close()


def test_processes_share_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path = tmp_path / "replies.db"
    FileReplies(path).put("w", b"first", reply(), 10)
    running = [context.Process(target=write, args=(path, name)) for name in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)
    assert [process.exitcode for process in running] == [0, 0]
    store = FileReplies(path)
    assert store.stats()["replies"] == 401 and store.get("w", b"1-199", 11) is not None
    store.close()


def test_a_forked_child_opens_the_file_for_itself(tmp_path: Path) -> None:
    store = FileReplies(tmp_path / "replies.db")
    store.put("w", b"k", reply(), 10)
    child = os.fork()
    if child == 0:
        inherited = store._connection
        store.put("w", b"child", reply("from the child"), 10)
        os._exit(0 if store.get("w", b"k", 11) and store.stats()["troubles"] == 0 and store._connection is not inherited else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get("w", b"child", 11) is not None
    store.close()


@pytest.mark.parametrize("trouble", ["garbage", "folder", "locked"])
def test_a_file_in_trouble_finds_nothing_and_breaks_nothing(tmp_path: Path, trouble: str) -> None:
    """It is counted, so that somebody can see it."""
    path = tmp_path / "replies.db"
    holder = None
    if trouble == "garbage":
        path.write_bytes(b"not a database " * 100)
    elif trouble == "folder":
        path.mkdir()
    else:
        FileReplies(path).put("w", b"k", reply(), 1)
        holder = apsw.Connection(str(path))
        holder.execute("BEGIN EXCLUSIVE")
    store = FileReplies(path, busy_ms=1)
    store.put("w", b"new", reply(), 10)
    assert store.get("w", b"new", 11) is None
    assert store.stats()["troubles"] >= 1
    if holder:
        holder.close()
        store.put("w", b"new", reply(), 10)
        assert store.get("w", b"new", 11) is not None, "and it is well again by itself"
    store.close()
