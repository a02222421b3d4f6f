"""What an import leaves beside the ledger: the mark to go on from, and the records it put aside. The only files imports write."""

from __future__ import annotations

import json
import os
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from .record import Bad

HEAD = 65_536  # bytes that tell one file from another of the same name
ASIDE_MAX = 1 << 20  # characters of one record put aside; the rest stays in the file it came from


def _folder(ledger: Path) -> Path:
    folder = ledger / "imports"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


class Mark:
    """How far an interrupted import of one file came. It names the file by its path and its first bytes: logs may have grown
    since, but a file that begins otherwise is another file."""

    def __init__(self, ledger: Path, form: str, file: Path) -> None:
        name = blake2b(f"{form}\0{file.resolve()}".encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self.path = _folder(ledger) / f"{form}-{name}.mark"
        self._file, self._form = file, form

    def _begins(self) -> str:
        with self._file.open("rb") as file:
            return blake2b(file.read(HEAD), digest_size=16).hexdigest()

    def load(self) -> dict[str, Any]:
        """`offset`, `line` and `records` of the interrupted import; empty when there was none, or of another file."""
        try:
            found = json.loads(self.path.read_text("utf-8"))
            return found if found["begins"] == self._begins() and self._file.stat().st_size >= found["size"] else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def save(self, offset: int, line: int, records: int) -> None:
        """Everything before `offset` is in the ledger or put aside."""
        said = {"file": str(self._file), "format": self._form, "begins": self._begins(), "size": self._file.stat().st_size,
                "offset": offset, "line": line, "records": records}  # fmt: skip
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(said), "utf-8")
        temporary.replace(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


class Aside:
    """The records of one import that could not be used, as they stand, each with its place and why. Made when the first one comes."""

    def __init__(self, ledger: Path, form: str, given: Path | None, resumed: bool) -> None:
        self.path = given or _folder(ledger) / f"{form}-refused.jsonl"
        self._append, self._file, self.count = resumed, None, 0
        self._form = form

    def put(self, file: Path, bad: Bad) -> None:
        if self._file is None:
            # Prompts may be in it: for its owner's eyes.
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if self._append else os.O_TRUNC), 0o600)
            self._file: IO[str] | None = os.fdopen(handle, "w", encoding="utf-8")
        self.count += 1
        line = {"format": self._form, "file": str(file), "line": bad.piece.line, "offset": bad.piece.offset, "reason": bad.reason,
                "record": bad.piece.raw.decode("utf-8", "replace").rstrip("\r\n")[:ASIDE_MAX]}  # fmt: skip
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
