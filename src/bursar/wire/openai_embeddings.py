"""OpenAI embeddings, and the vendors that copy them (Voyage, Mistral, Azure, Ollama)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..domain.call import Asked, AskUsage, CapOutput, Edit, Headers, Malformed, Reading, UseModel, WindDown
from ..domain.verdict import Refusal
from . import body as gate
from . import splice
from .dialect import JSON, Reader, encode
from .history import BUILT_IN, Signs
from .openai_answer import edge_reading, refuse, whole
from .openai_chat import DEPLOYMENT, openai_chat


class _Model(gate.Text):
    __slots__ = ()
    member = "model"


class _Body(msgspec.Struct):
    model: _Model = _Model(None)
    user: str | None = None


class _Embeddings:
    name = "openai_embeddings"

    def read(self, path: str, body: bytes, signs: Signs = BUILT_IN) -> Asked | Malformed:
        found = gate.read(body, _Body)
        if isinstance(found, Malformed):
            return found
        found, members = found
        model: str = found.model.value or ""
        if not model:
            deployment = DEPLOYMENT.search(path)
            model = deployment[1] if deployment else ""
        return Asked(model=model, user=found.user or "", embedding=True, members=members)

    def edit(self, path: str, body: bytes, asked: Asked, edits: Sequence[Edit]) -> tuple[str, bytes]:
        for edit in edits:
            match edit:
                case UseModel(model):
                    path = DEPLOYMENT.sub(lambda _, to=model: f"/deployments/{to}/", path, count=1)
                    body = splice.put(body, "model", encode(model), asked.members)
                case CapOutput() | AskUsage() | WindDown():
                    pass  # an embedding has neither output tokens nor a stream
        return path, body

    def whole(self, status: int, body: bytes, json_demanded: bool = False) -> Reading:
        return whole(status, body, False, embedding=True)

    def edges(self, head: bytes, tail: bytes) -> Reading:
        return edge_reading(head, tail, embedding=True)

    def reader(self, asked: Asked, hide_usage: bool) -> Reader:
        """No provider streams embeddings; one that did would do it as chat does."""
        return openai_chat.reader(asked, hide_usage)

    def refuse(self, refusal: Refusal) -> tuple[Headers, bytes]:
        return refuse(refusal)

    def say(self, text: str, asked: Asked, model: str, call_id: str) -> tuple[Headers, bytes]:
        """There is no vector that says this: an empty list, which no client takes for an embedding."""
        spent = {"prompt_tokens": 0, "total_tokens": 0}
        return [JSON], encode({"object": "list", "data": [], "model": model, "usage": spent, "bursar": text})


openai_embeddings = _Embeddings()
