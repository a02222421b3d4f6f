"""Which header lines pass a gateway, in either direction."""

from __future__ import annotations

from bursar.wire import headers


def test_what_a_reply_lists_as_its_connections_own_stays_here() -> None:
    """`connection` names lines that are between the provider and us; the first one that says anything counts."""
    reply = [(b"x-hop", b"1"), (b"connection", b""), (b"connection", b"X-Hop, close"), (b"connection", b"date"), (b"date", b"2")]
    assert headers.downstream(reply, True) == [(b"date", b"2")]
    assert headers.downstream([(b"x-hop", b"1"), (b"connection", b"Keep-Alive")], True) == [(b"x-hop", b"1")]


def test_a_reply_keeps_order_and_duplicates_but_for_framing_our_own_and_foreign_cookies() -> None:
    """A cookie is the client's own only inside its own process."""
    reply = [
        (b"b", b"1"), (b"content-length", b"3"), (b"a", b"2"), (b"set-cookie", b"s=1"), (b"x-bursar-cost", b"9"), (b"b", b"3"),
    ]  # fmt: skip
    assert headers.downstream(reply, True) == [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")]
    assert headers.downstream(reply, False) == [(b"b", b"1"), (b"a", b"2"), (b"set-cookie", b"s=1"), (b"b", b"3")]


def test_names_that_strangers_choose_do_not_fill_the_memory() -> None:
    """What is forgotten is looked at anew."""
    for at in range(3 * headers.NAMES_MAX):
        assert headers.downstream([(b"x-%d" % at, b""), (b"te", b"")], True) == [(b"x-%d" % at, b"")]
    assert len(headers._heard) <= headers.NAMES_MAX + 2
