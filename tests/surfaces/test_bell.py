"""What a channel gets, and what is said when it does not: against real sockets, a real HTTP receiver and a real mail server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from bell_rig import Receiver, check_blocks
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from bursar.domain.message import Link, Message
from bursar.domain.policy import Channel
from bursar.surfaces import bell, bell_apprise, bell_slack, post, settings
from bursar.surfaces.bell import Delivered, Failed, addressed, deliver

HOSTILE = "<!channel> <https://evil|pay> *bold* `code` ``` :skull: \x1b[31m\u202e\r\n@here & co"
MESSAGE = Message(
    "a1b2-1", "firing", 1_795_392_000_000_000, "acme: $52.10 in the last hour", ("That is 11 times what is usual.", HOSTILE),
    (("Tenant", HOSTILE), ("Since", "09:20 UTC")), "bursar why --where tenant=acme", (Link("Stop it", "https://b.example/s?x=1", "danger"),),
    {"alarm": "tenants", "value": "52.1"},
)  # fmt: skip


def test_a_webhook_gets_json_that_its_secret_proves() -> None:
    """As Standard Webhooks has it: the receiver computes the same HMAC over id, time and body."""
    with Receiver() as receiver:
        sent = deliver(addressed(receiver.url, "whsec_" + base64.b64encode(b"k" * 24).decode(), private=True), MESSAGE)
    assert isinstance(sent, Delivered) and sent.detail == "HTTP 200"
    (got,) = receiver.got
    assert got.path == "/hook" and got.headers["webhook-id"] == MESSAGE.id
    at = got.headers["webhook-timestamp"]
    mac = hmac.new(b"k" * 24, f"{MESSAGE.id}.{at}.".encode() + got.body, hashlib.sha256).digest()
    assert got.headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
    assert abs(time.time() - int(at)) < 60
    told = got.json
    assert (told["id"], told["kind"], told["alarm"], told["value"]) == (MESSAGE.id, "firing", "tenants", "52.1")
    assert told["text"][1] == HOSTILE and told["links"] == {"Stop it": "https://b.example/s?x=1"}


@pytest.mark.parametrize(
    ("answer", "code"),
    [(500, "refused"), (404, "refused"), (302, "redirect"), (b"nonsense\r\n\r\n", "broken"), (b"", "broken"), (b"HTTP/1.1 20", "broken")],
)
def test_what_is_no_success_is_a_failure_that_says_what_it_was(answer: int | bytes, code: str) -> None:
    with Receiver(answer) as receiver:
        sent = deliver(addressed(receiver.url, private=True), MESSAGE)
    assert isinstance(sent, Failed) and sent.code == code and sent.remedy
    assert len(receiver.got) == 1  # neither followed nor tried again here


def test_a_receiver_says_when_to_come_again() -> None:
    with Receiver(b"HTTP/1.1 429 Too Many\r\nRetry-After: 30\r\nContent-Length: 0\r\n\r\n") as receiver:
        sent = deliver(addressed(receiver.url, private=True), MESSAGE)
    assert isinstance(sent, Failed) and sent.retry_after_s == 30


def test_a_receiver_that_hangs_or_trickles_is_left_at_the_deadline() -> None:
    with Receiver(hang_s=5) as receiver:
        start = time.monotonic()
        sent = deliver(addressed(receiver.url, private=True, timeout_s=0.3), MESSAGE)
        assert isinstance(sent, Failed) and sent.code == "timeout" and time.monotonic() - start < 1.5
    trickle = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        connection, _ = trickle.accept()
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass

    threading.Thread(target=drip, daemon=True).start()
    start = time.monotonic()
    sent = deliver(addressed(f"http://127.0.0.1:{trickle.getsockname()[1]}/", private=True, timeout_s=0.3), MESSAGE)
    trickle.close()
    assert isinstance(sent, Failed) and sent.code == "timeout" and time.monotonic() - start < 1.5


def test_nobody_listening_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    sent = deliver(addressed(f"http://127.0.0.1:{port}/", private=True), MESSAGE)
    assert isinstance(sent, Failed) and sent.code == "connect"


# -- not into our own network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.8", "192.168.1.1", "169.254.169.254", "[::ffff:10.0.0.1]",
                                  "[fd00::1]", "0.0.0.0", "100.64.0.1", "[64:ff9b::a00:1]", "[2002:a00:1::]", "224.0.0.1", "2130706433"])  # fmt: skip
def test_an_address_inside_a_private_network_is_not_asked(host: str) -> None:
    """Also where a name leads there, a tunnel carries it, or it is written as one number."""
    sent = deliver(addressed(f"https://{host}/latest/meta-data"), MESSAGE)
    assert isinstance(sent, Failed) and sent.code == "private_address" and "private = true" in sent.remedy


def test_public_addresses_are_public() -> None:
    assert all(map(post.is_public, ("1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::808:808")))


def test_the_address_that_was_judged_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that says something else the second time is not asked a second time."""
    asked: list[str] = []
    answers: list[Any] = [[(2, 1, 6, "", ("93.184.216.34", 443))], [(2, 1, 6, "", ("127.0.0.1", 443))]]

    def lookup(host: str, *_: object, **__: object) -> Any:
        asked.append(host)
        return answers.pop(0)

    reached: list[object] = []

    def connect(place: object, **_: object) -> socket.socket:
        reached.append(place)
        raise OSError("stop here")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket, "create_connection", connect)
    deliver(addressed("https://rebind.example/"), MESSAGE)
    assert asked == ["rebind.example"] and reached == [("93.184.216.34", 443)]


@pytest.mark.parametrize("url", ["http://example.com/", "https://user:pw@example.com/", "ftp://example.com", "https:///x", "https://h/\r\nX: y", "x"])
def test_addresses_without_tls_or_with_tricks_in_them_are_not_asked(url: str) -> None:
    sent = deliver(addressed(url), MESSAGE)
    assert isinstance(sent, Failed) and sent.code == "bad_url"


# -- Slack -----------------------------------------------------------------------------------------------------------------


def test_slack_gets_blocks_in_which_strangers_words_are_words() -> None:
    with Receiver() as receiver:
        assert isinstance(deliver(addressed(receiver.url, private=True)._replace(kind="slack"), MESSAGE), Delivered)
    made = receiver.got[0].json
    check_blocks(made)
    assert "<!channel>" in made["attachments"][0]["blocks"][2]["text"]["text"]  # as words, in plain text
    assert "&lt;!channel&gt;" in made["text"]


ANY = st.text(max_size=4000) | st.just("&" * 5000) | st.just(HOSTILE * 200)


@budget(max_examples=60, deadline=None)
@given(ANY, st.lists(ANY, max_size=60), st.lists(st.tuples(ANY, ANY), max_size=12), ANY, st.lists(ANY, max_size=30))
def test_whatever_the_labels_hold_slack_takes_the_message(
    title: str, text: list[str], facts: list[tuple[str, str]], command: str, links: list[str]
) -> None:
    made = Message("x", "firing", 0, title, tuple(text), tuple(facts), command, tuple(Link(one, "https://b.example/" + "y" * len(one)) for one in links))
    check_blocks(bell_slack.payload(made))


# -- mail and the rest -----------------------------------------------------------------------------------------------------


class _Mail(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server: Any = self.server
        say = self.wfile.write
        say(b"220 mail\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb in (b"EHLO", b"HELO"):
                say(b"250 mail\r\n")
            elif verb == b"DATA":
                say(b"354 go\r\n")
                body = b""
                while (line := self.rfile.readline()) != b".\r\n":
                    body += line
                server.mails.append(body.decode())
                say(b"250 taken\r\n")
            elif verb == b"RCPT" and b"nobody" in line:
                say(b"550 no such\r\n")
            elif verb == b"QUIT":
                say(b"221 bye\r\n")
                return
            else:
                say(b"250 fine\r\n")


@pytest.fixture
def mail_server() -> Iterator[Any]:
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        mails: list[str] = []

    with Server(("127.0.0.1", 0), _Mail) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_an_email_says_the_same_without_markup(mail_server: Any) -> None:
    channel = Channel(url=f"smtp://127.0.0.1:{mail_server.server_address[1]}", to=["ops@example.com"], private=True)
    assert isinstance(deliver(bell.address("mail", channel), MESSAGE), Delivered)
    (mail,) = mail_server.mails
    assert "Subject: acme: $52.10 in the last hour" in mail and "To: ops@example.com" in mail and "<a1b2-1@bursar>" in mail
    assert "$ bursar why --where tenant=acme" in mail and "Stop it: https://b.example/s?x=1" in mail.replace("=\r\n", "").replace("=3D", "=")


def test_an_email_to_nobody_and_one_without_tls_on_the_open_net_are_failures(mail_server: Any) -> None:
    url = f"smtp://127.0.0.1:{mail_server.server_address[1]}"
    sent = deliver(bell.address("mail", Channel(url=url, to=["nobody@example.com"], private=True)), MESSAGE)
    assert isinstance(sent, Failed) and sent.code == "mail"
    sent = deliver(bell.address("mail", Channel(url=url, to=["ops@example.com"])), MESSAGE)
    assert isinstance(sent, Failed) and mail_server.mails == []
    with pytest.raises(settings.BadPolicy, match="nobody to write to"):
        bell.address("mail", Channel(url=url))


# -- what apprise speaks: the real library, in the process it is given ------------------------------------------------------


def through_apprise(url: str, **more: Any) -> Delivered | Failed:
    return deliver(bell.address("phone", Channel(url=url, kind="apprise", **{"timeout_s": 30.0, **more})), MESSAGE)


def test_apprise_takes_a_message_to_its_services() -> None:
    with Receiver() as receiver:
        sent = through_apprise(receiver.url.replace("http", "json"), private=True)
    assert isinstance(sent, Delivered), sent
    (got,) = receiver.got
    assert got.path == "/hook" and got.json["title"] == MESSAGE.title
    assert "Stop it: https://b.example/s?x=1" in got.json["message"] and "$ bursar why --where tenant=acme" in got.json["message"]


def test_strangers_words_call_nobody_by_way_of_apprise() -> None:
    """Which service reads `@here` or `<!channel>` is not known here: they are broken for all, and an address stays one."""
    with Receiver() as receiver:
        through_apprise(receiver.url.replace("http", "json"), private=True)
    told = receiver.got[0].json["message"]
    assert "@here" not in told and "<!channel>" not in told and "@\u200bhere" in told
    assert bell_apprise.quiet("mia@example.com <b> @hereford") == "mia@example.com <b> @hereford"


@pytest.mark.parametrize(("url", "code"), [
    ("json://93.184.216.34:{}/hook", "bad_url"), ("json://127.0.0.1:{}/hook", "bad_url"), ("jsons://localhost:{}/hook", "private_address"),
    ("jsons://[::1]:{}/", "private_address"), ("mailto://u:p@localhost:{}?from=a@b.example&to=c@d.example", "private_address"),
    ("rsyslog://127.0.0.1:{}", "private_address"),
])  # fmt: skip
def test_apprise_is_kept_out_of_private_networks_and_from_talking_without_tls(url: str, code: str) -> None:
    with Receiver() as receiver:
        sent = through_apprise(url.format(receiver.url.split(":")[2].split("/")[0]))
    assert isinstance(sent, Failed) and sent.code == code and sent.remedy, sent
    assert receiver.got == []


def test_what_apprise_cannot_send_is_a_failure_in_its_time() -> None:
    sent = through_apprise("nonsense://topic")
    assert isinstance(sent, Failed) and sent.code == "bad_url" and "nonsense" not in sent.reason
    with Receiver(500) as receiver:
        sent = through_apprise(receiver.url.replace("http", "json"), private=True)
    assert isinstance(sent, Failed) and sent.code == "refused"
    with Receiver(hang_s=60) as receiver:
        start = time.monotonic()
        sent = through_apprise(receiver.url.replace("http", "json") + "?rto=60", private=True, timeout_s=4.0)
        assert isinstance(sent, Failed) and sent.code == "timeout" and time.monotonic() - start < 30
    left = [one for one in psutil.Process().children(recursive=True) if bell_apprise.MODULE in " ".join(one.cmdline())]
    assert left == []


def test_apprise_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    sent = through_apprise("ntfy://topic")
    assert isinstance(sent, Failed) and "bursar[apprise]" in sent.remedy


def test_neither_the_gateway_nor_its_clockwork_loads_apprise() -> None:
    look = "import sys, bursar.surfaces.bell_apprise, bursar.surfaces.watch; print({'apprise', 'requests'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(("name", "url", "kind"), [
    ("slack", "https://proxy.example/x", "slack"), ("ops", "https://hooks.slack.com/services/T/B/x", "slack"), ("ops", "https://x.example", "webhook"),
    ("ops", "smtps://u@mail.example", "email"), ("ops", "tgram://token/chat", "apprise"), ("ops", "https://evil.example/?hooks.slack.com/", "webhook"),
])  # fmt: skip
def test_a_channel_is_what_it_says_is_named_or_leads_to(name: str, url: str, kind: str) -> None:
    assert bell.kind_of(name, Channel(url=url)) == kind


def test_a_secret_stays_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK", "https://hooks.slack.com/services/T/B/verysecret")
    address = bell.address("slack", Channel(url="env:HOOK", secret="hidden"))
    assert address.url.endswith("verysecret") and "verysecret" not in repr(address) and "hidden" not in repr(address)
