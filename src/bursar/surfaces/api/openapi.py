"""The own API as an OpenAPI document, made from the table of its ways."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..office import API, TRACES

if TYPE_CHECKING:
    from .app import Way

MANY = ("where", "resolved")
BOOLEAN = ("replace", "dry_run", "all", "full")


def document(ways: Sequence[Way]) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for way in ways:
        path = API.removesuffix("/") + re.sub(r":\w+}", "}", way.path)
        inside = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "integer" if name == "n" else "string"}}
            for name in re.findall(r"{(\w+)}", path)
        ]
        told = " ".join((way.answer.__doc__ or "").split())
        one: dict[str, Any] = {
            "summary": told, "parameters": inside, "security": [{"key": []}], "x-role": "viewer" if way.need == "read" else "operator",
            "responses": {"200": {"description": "one document with `rows`", "content": {"application/json": {"schema": {
                "type": "object"}}}}, "default": {"$ref": "#/components/responses/refusal"}},
        }  # fmt: skip
        if way.method == "GET":
            one["parameters"] = inside + [
                {"name": name, "in": "query", "description": text, "schema": _schema(name)} for name, text in way.takes.items()
            ]
        elif way.takes:
            members = {name: {**_member(name), "description": text} for name, text in way.takes.items()}
            one["requestBody"] = {"content": {"application/json": {"schema": {"type": "object", "properties": members}}}}
        paths.setdefault(path, {})[way.method.lower()] = one
    spans = {kind: {"schema": {"type": "object"}} for kind in ("application/json", "application/x-protobuf")}
    paths[TRACES] = {"post": {
        "summary": "OTLP/HTTP: spans of model calls become rows. Any key may send them.", "security": [{"key": []}],
        "requestBody": {"content": spans}, "responses": {"200": {"description": "ExportTraceServiceResponse", "content": spans}},
    }}  # fmt: skip
    texts = {name: {"type": "string"} for name in ("code", "reason", "remedy")}
    refusal = {"type": "object", "properties": {"error": {"type": "object", "properties": texts, "required": list(texts)}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bursar", "version": importlib.metadata.version("bursar"),
            "description": "The gateway's own API: its books, its guards, spans in.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "a virtual key with a role"}},
            "responses": {"refusal": {"description": "refused", "content": {"application/json": {"schema": refusal}}}},
        },
    }  # fmt: skip


def _schema(name: str) -> dict[str, Any]:
    one = {"type": "boolean"} if name in BOOLEAN else {"type": "integer"} if name in ("top", "limit") else {"type": "string"}
    return {"type": "array", "items": one} if name in MANY else one


def _member(name: str) -> dict[str, Any]:
    if name in ("names", "where"):
        return {"type": "object", "additionalProperties": {"type": "string"}}
    return {"type": "boolean"} if name in BOOLEAN else {"type": "string"}
