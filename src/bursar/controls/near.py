"""The near-duplicate of one call: looked for among kept questions; its reply is served where that is certified, else judged by the
true one."""

from __future__ import annotations

from collections.abc import Generator
from hashlib import blake2b
from typing import Any

from ..domain.call import Asked, Incoming, Reading
from ..domain.labels import Labels
from ..domain.reply import Framed, Kept
from ..effects import Effect, Liken, Sampled
from ..rules import near, reuse
from ..wire import batch, question, replay
from ..wire.dialect import encode
from .own import Ask, Own

PATH = "/v1/embeddings"
WITHIN_S = 2.0  # for an embedding: the client waits for it
WALLS = ("tenant\0", "key\0")  # one customer's; what several declared to share is shared word for word only


class Near:
    """Only where `of` gave one."""

    def __init__(self, setting: reuse.Setting, wall: str, scope: bytes, framed: Framed, call: Incoming) -> None:
        self._setting, self._wall, self._scope, self._call = setting, wall, scope, call
        self.framed: Framed | None = framed
        self.kept: Kept | None = None  # what would have answered
        self.same: bool | None = None  # … and whether it says what the true reply does

    @classmethod
    def of(
        cls, setting: reuse.Setting, wall: str, labels: Labels, asked: Asked, dialect: str, provider: str, counted: bytes,
        call: Incoming,
    ) -> Near | None:  # fmt: skip
        """None where near-duplicates are not looked for."""
        if setting.near == "off" or not wall.startswith(WALLS) or labels.operation == "eval":
            return None
        found = question.framed(dialect, call.body)
        if found is None or not found[1] or len(found[1]) > near.TEXT_MAX:
            return None
        frame = reuse.key(wall, provider, dialect, asked.model, counted + b"\0near", found[0])
        finder = "/".join(setting.near_model)
        scope = blake2b(repr((wall, labels.flow, finder)).encode(), digest_size=16).digest()
        return cls(setting, wall, scope, Framed(frame, found[1]), call)

    def look(self, ask: Ask) -> Generator[Effect, Any, Kept | None]:
        """The reply to give. None: the call is made."""
        framed, call = self.framed, self._call
        assert framed is not None, "it was made with one"
        provider, model = self._setting.near_model
        on = self._setting.near == "on"
        if model:
            likely = yield Liken(self._wall, self._scope, framed, call.ts_us, call.call_id, on, ask=True)
            if not likely.looks:
                self.framed = None
                return None
            body, _ = yield from ask(
                Own("near", "near", provider or "openai", PATH, encode({"model": model, "input": framed.text}), WITHIN_S)
            )
            vector = batch.vector(body) if body is not None else None
            if vector is None:
                self.framed = None
                return None
            framed = self.framed = framed._replace(vector=vector)
        likely = yield Liken(self._wall, self._scope, framed, call.ts_us, call.call_id, on)
        if not likely.looks:
            self.framed = None
        if likely.served:
            return likely.kept
        self.kept = likely.kept
        return None

    def judge(self, status: int, reading: Reading, body: bytes | None) -> None:
        """The true reply is there. One that failed or was cut says nothing of the other; one that calls a tool says another thing."""
        kept = self.kept
        if kept is None or body is None or reuse.refuses_reply(status, reading, False, len(body), self._setting._replace(tools=True)):
            return
        said = "" if replay.calls_tools(body) else replay.said(body)
        self.same = bool(said) and near.agree(replay.said(kept.body), said)

    def sampled(self) -> Generator[Effect, Any, None]:
        if self.same is not None:
            yield Sampled(self._scope, self.same, self._call.ts_us)

    def indexed(self, body: bytes) -> Framed | None:
        """The question under which the reply may be found by others: only words answer words. One that the kept question stands for
        is not put beside it, or a third wording would lie as near to one as to the other."""
        return self.framed if not self.same and replay.said(body) and not replay.calls_tools(body) else None
