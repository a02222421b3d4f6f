"""The outline of a Gemini generateContent request. Calls have no ids: a result belongs to the call of its name."""

from __future__ import annotations

from ..domain.outline import Outline
from . import places
from .outlining import Builder, Place, error, name, text

_ROLES = {b"user": "human", b"": "human", b"model": "model", b"function": "result"}


def contents(body: bytes, keyed: bool) -> Outline:
    """Both spellings of every name are taken. A result is an object; all of it is one piece."""
    top = places.top(body)
    if b"cachedContent" in top or b"cached_content" in top:
        return Outline((), (), "cached content kept by the provider")
    listed = top.get(b"contents")
    if listed is None or body[listed[0] : listed[0] + 1] != b"[":
        return Outline((), (), "no list of contents")
    found = Builder(body, keyed)
    for place in places.elements(body, *listed):
        members = places.named(body, *place)
        role = _ROLES.get(text(body, members.get(b"role")), "system")
        signed = False
        listed_parts = members.get(b"parts")
        for part in places.elements(body, *listed_parts) if listed_parts else ():
            inside = places.named(body, *part)
            sealed = b"thoughtSignature" in inside or b"thought_signature" in inside
            signed = signed or sealed or b"thought" in inside
            answered = inside.get(b"functionResponse") or inside.get(b"function_response")
            called = inside.get(b"functionCall") or inside.get(b"function_call")
            if answered is not None:
                role = "result"
                _result(found, answered)
            elif called is not None and not sealed:  # arguments under a signature are part of what was signed
                call = places.named(body, *called)
                if b"args" in call:
                    found.argument(name(body, call.get(b"name")), call[b"args"])
        found.message(role, place, signed)
    return found.done()


def _result(found: Builder, place: Place) -> None:
    body = found.body
    inside = places.named(body, *place)
    answer = inside.get(b"response")
    if answer is None or body[answer[0] : answer[0] + 1] != b"{":
        return
    members = places.named(body, *answer)
    said = members.get(b"result") or members.get(b"output") or members.get(b"content")
    failed = b"error" in members or (said is not None and error(body, said[0]))
    wrapped = len(members) == 1 and said is not None and body[said[0]] == 0x22  # SDKs wrap a text as {"result": "…"}
    kind = "text" if wrapped and said is not None and body[said[0] + 1 : said[0] + 2] not in (b"{", b"[") else "record"
    found.piece(kind, name(body, inside.get(b"name")), failed, answer)
