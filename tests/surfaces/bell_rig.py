"""A real HTTP receiver for what bells send: keeps every request, and answers as told."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Got(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Receiver:
    """`with Receiver() as bell:` listens on loopback. `answers` are used up first; a number is a status, a text is sent as it is."""

    def __init__(self, *answers: int | bytes, hang_s: float = 0.0) -> None:
        self.got: list[Got] = []
        self.answers = list(answers)
        self.hang_s = hang_s
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.append(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                time.sleep(receiver.hang_s)
                answer = receiver.answers.pop(0) if receiver.answers else 200
                if isinstance(answer, bytes):
                    self.wfile.write(answer)
                    self.close_connection = True
                    return
                self.send_response(answer)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def check_blocks(made: dict[str, Any]) -> None:
    """Slack's documented limits, and nothing of strangers where Slack reads control sequences."""
    (attachment,) = made["attachments"]
    blocks = attachment["blocks"]
    assert 1 <= len(blocks) <= 50 and len(made["text"]) <= 4000 and len(json.dumps(made)) < 100_000

    def text(part: dict[str, Any], most: int) -> None:
        assert part["type"] in ("plain_text", "mrkdwn") and 1 <= len(part["text"]) <= most
        if part["type"] == "mrkdwn":
            assert part["text"].startswith("```") and "<" not in part["text"] and part["text"].count("```") == 2
        assert part["text"].replace("\n", "").isprintable()

    ids = set()
    for block in blocks:
        match block["type"]:
            case "header":
                assert block["text"]["type"] == "plain_text"
                text(block["text"], 150)
            case "section":
                if "accessory" in block:
                    assert block["accessory"]["type"] == "button" and len(block["accessory"]["url"]) <= 3000
                    text(block["accessory"]["text"], 75)
                assert ("text" in block) != ("fields" in block)
                if "text" in block:
                    text(block["text"], 3000)
                else:
                    assert 1 <= len(block["fields"]) <= 10
                    for part in block["fields"]:
                        text(part, 2000)
            case "actions":
                assert 1 <= len(block["elements"]) <= 25
                for button in block["elements"]:
                    text(button["text"], 75)
                    assert len(button["url"]) <= 3000 and button.get("style") in (None, "primary", "danger")
                    assert button["action_id"] not in ids
                    ids.add(button["action_id"])
            case "context":
                assert 1 <= len(block["elements"]) <= 10
                text(block["elements"][0], 3000)
            case other:
                raise AssertionError(other)
    assert "<" not in made["text"] and ">" not in made["text"]
