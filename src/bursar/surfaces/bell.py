"""Sends one message to one channel, within a deadline, and says what came of it. Knows no schedule and keeps no state."""

from __future__ import annotations

import base64
import hashlib
import hmac
import threading
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from ..domain.message import Message
from ..domain.policy import Channel
from . import settings
from .post import Answer, PostFailed, post

KINDS = ("slack", "webhook", "email", "apprise")
ALONE = 3  # alarms that people are told one by one in five minutes
GRACE_S = 1.0  # a channel's own deadline is given this long to speak before the thread is left behind


class Address(NamedTuple):
    """A channel made ready: its secrets are read. Never printed."""

    name: str
    kind: str
    url: str
    secret: str
    to: tuple[str, ...]
    sender: str
    private: bool
    timeout_s: float

    def __repr__(self) -> str:
        return f"Address({self.name!r}, {self.kind!r})"


class Delivered(NamedTuple):
    """The channel took it. `detail` is for the record: an HTTP status, an SMTP answer."""

    detail: str
    took_ms: int


class Failed(NamedTuple):
    """It did not, or did not say so in time: it may have arrived all the same, so it is sent again under the same id."""

    code: str
    reason: str
    remedy: str
    retry_after_s: float = 0.0
    took_ms: int = 0


def kind_of(name: str, channel: Channel) -> str:
    """What a channel is: as it says, by its name, by its address; empty when none of them tells."""
    if channel.kind or name in KINDS:
        return channel.kind or name
    scheme, _, rest = channel.url.partition("://")
    if rest.startswith("hooks.slack.com/"):
        return "slack"
    return {"https": "webhook", "http": "webhook", "smtp": "email", "smtps": "email"}.get(scheme, "apprise" if rest else "")


def address(name: str, channel: Channel) -> Address:
    """BadPolicy when a secret is not there, or the channel cannot be what it says."""
    url = settings.secret(channel.url, f"channels.{name}.url")
    kind = kind_of(name, msgspec.structs.replace(channel, url=url))
    key = settings.secret(channel.secret, f"channels.{name}.secret") if channel.secret else ""
    if not kind:
        raise settings.BadPolicy(f"channels.{name}: its url is none; write https://…, smtps://… or what apprise speaks")
    if kind == "email" and not channel.to:
        raise settings.BadPolicy(f'channels.{name}: nobody to write to; add to = ["you@example.com"]')
    return Address(name, kind, url, key, tuple(channel.to), channel.sender, channel.private, channel.timeout_s)


def alone(name: str, channel: Channel) -> int:
    """How many alarms a channel is told one by one in five minutes; 0: all of them, as programs take them."""
    if channel.digest is not None:
        return channel.digest
    try:
        return 0 if address(name, channel).kind == "webhook" else ALONE
    except settings.BadPolicy:
        return ALONE


def addressed(url: str, secret: str = "", *, private: bool = False, timeout_s: float = 10.0) -> Address:
    """A webhook that is no channel of the policy, such as a hand-off's URL."""
    return Address(urlsplit(url).hostname or "webhook", "webhook", url, secret, (), "", private, timeout_s)


def deliver(channel: Address, message: Message) -> Delivered | Failed:
    """Send it. Returns within the channel's `timeout_s` and a second, whatever the other side does; raises nothing but what is
    a bug under test. Safe from any thread; blocks, so never on an event loop."""
    found: list[Delivered | Failed] = []
    start = time.monotonic()

    def work() -> None:
        found.append(_guarded(SENDERS[channel.kind], channel, message))

    # A name server or a mail library that hangs cannot be interrupted, only left behind.
    thread = threading.Thread(target=work, name=f"bursar-bell-{channel.name}", daemon=True)
    thread.start()
    thread.join(channel.timeout_s + GRACE_S)
    took = round(1000 * (time.monotonic() - start))
    if not found:
        return Failed("timeout", f"no answer within {channel.timeout_s:g} s", "it is tried again", 0.0, took)
    return found[0]._replace(took_ms=took)


def _guarded(send: Callable[[Address, Message], Delivered | Failed], channel: Address, message: Message) -> Delivered | Failed:
    try:
        return send(channel, message)
    except PostFailed as failed:
        return Failed(failed.code, failed.reason, failed.remedy)
    except Exception as bug:  # a library's own error, whose kinds it does not name; its text may hold the channel's secret
        return Failed("fault", f"{type(bug).__name__} while sending", "test the channel: bursar alarms test NAME")


# -- HTTP ------------------------------------------------------------------------------------------------------------------


def signed(secret: str, id: str, at_s: int, body: bytes) -> dict[str, str]:
    """Headers of a webhook, as in Standard Webhooks: a receiver recomputes the HMAC over `id.timestamp.body` and compares.
    `whsec_…` is a base64 key, anything else is taken as it is."""
    headers = {"Content-Type": "application/json", "User-Agent": "bursar", "webhook-id": id, "webhook-timestamp": str(at_s)}
    if secret:
        headers["webhook-signature"] = "v1," + signature(secret, id, at_s, body)
    return headers


def signature(secret: str, id: str, at_s: int, body: bytes) -> str:
    key = secret.encode()
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret[6:], validate=True)
        except ValueError:
            pass  # then it only looks like one
    return base64.b64encode(hmac.digest(key, b"%s.%d.%s" % (id.encode(), at_s, body), hashlib.sha256)).decode()


def webhook_body(message: Message) -> bytes:
    """What a webhook gets: the message as one JSON object."""
    return msgspec.json.encode({
        "id": message.id, "kind": message.kind, "at_us": message.at_us, "title": message.title, "text": list(message.text),
        "facts": dict(message.facts), "command": message.command, "links": {link.text: link.url for link in message.links},
        **message.data,
    })  # fmt: skip


def _webhook(channel: Address, message: Message) -> Delivered | Failed:
    body = webhook_body(message)
    headers = signed(channel.secret, message.id, int(time.time()), body)
    return _answered(channel, post(channel.url, headers, body, private=channel.private, timeout_s=channel.timeout_s))


def _slack(channel: Address, message: Message) -> Delivered | Failed:
    from .bell_slack import payload

    body = msgspec.json.encode(payload(message))
    headers = {"Content-Type": "application/json", "User-Agent": "bursar", "webhook-id": message.id}
    return _answered(channel, post(channel.url, headers, body, private=channel.private, timeout_s=channel.timeout_s))


def _answered(channel: Address, answer: Answer) -> Delivered | Failed:
    if 200 <= answer.status < 300:
        return Delivered(f"HTTP {answer.status}", 0)
    if 300 <= answer.status < 400:
        remedy = "write the address it leads to: redirects are not followed"
        return Failed("redirect", f"{channel.name} answered {answer.status}", remedy)
    return Failed(
        "refused", f"{channel.name} answered {answer.status}: {' '.join(answer.start.split())[:120]}",
        "look at the channel's url and secret", answer.retry_after_s,
    )  # fmt: skip


# -- mail and others -------------------------------------------------------------------------------------------------------


def as_text(message: Message) -> str:
    """For channels without markup."""
    lines = [*message.text, ""] + [f"{name}: {value}" for name, value in message.facts]
    for item in message.items:
        lines += [f"- {item.text}", *([f"  {item.link.text}: {item.link.url}"] if item.link else [])]
    lines += ["", f"$ {message.command}"] if message.command else []
    lines += ["", *[f"{link.text}: {link.url}" for link in message.links]] if message.links else []
    return "\n".join(lines).strip() + "\n"


def _email(channel: Address, message: Message) -> Delivered | Failed:
    import smtplib
    import ssl
    from email.message import EmailMessage
    from email.utils import format_datetime, formataddr
    from urllib.parse import unquote

    from .periods import EPOCH, timedelta

    parts = urlsplit(channel.url)
    host, user = parts.hostname or "", unquote(parts.username or "")
    mail = EmailMessage()
    mail["Subject"] = " ".join(message.title.split())[:200]
    mail["From"] = channel.sender or formataddr(("Bursar", user if "@" in user else f"bursar@{host}"))
    mail["To"] = ", ".join(channel.to)
    mail["Message-ID"] = f"<{message.id}@bursar>"
    mail["Date"] = format_datetime(EPOCH + timedelta(microseconds=message.at_us))
    mail.set_content(as_text(message))
    context = ssl.create_default_context()
    try:
        if parts.scheme == "smtps":
            server: smtplib.SMTP = smtplib.SMTP_SSL(host, parts.port or 465, timeout=channel.timeout_s, context=context)
        else:
            server = smtplib.SMTP(host, parts.port or 587, timeout=channel.timeout_s)
        with server:
            if parts.scheme == "smtp" and (not channel.private or server.has_extn("starttls")):
                server.starttls(context=context)
            if user:
                server.login(user, channel.secret)
            refused = server.send_message(mail)
    except (smtplib.SMTPException, OSError) as bad:
        code = getattr(bad, "smtp_code", "")
        return Failed("mail", f"{host}: {type(bad).__name__} {code}".strip(), "look at the channel's url, secret and to")
    if refused:
        return Failed("mail", f"{host} refused {len(refused)} of {len(channel.to)} addresses", "look at the channel's to")
    return Delivered("accepted", 0)


def _apprise(channel: Address, message: Message) -> Delivered | Failed:
    from .bell_apprise import tell

    title = " ".join(message.title.split())[:200]
    said = tell(channel.url, title, as_text(message), private=channel.private, timeout_s=channel.timeout_s)
    return Failed(said.code, f"{channel.name}: {said.reason}", said.remedy) if said.code else Delivered("apprise", 0)


SENDERS: dict[str, Callable[[Address, Message], Delivered | Failed]] = {
    "slack": _slack, "webhook": _webhook, "email": _email, "apprise": _apprise,
}  # fmt: skip
