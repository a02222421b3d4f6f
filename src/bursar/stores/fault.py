"""What can be wrong with a ledger, said to an operator: code, reason with the numbers, remedy."""

from __future__ import annotations

from pathlib import Path

import apsw


class LedgerFault(Exception):
    """The ledger could not do what was asked; nothing was acknowledged.

    `code` is one of CODES; `reason` says what happened, `remedy` what now."""

    def __init__(self, code: str, reason: str, remedy: str) -> None:
        super().__init__(f"{code}: {reason}; {remedy}")
        self.code, self.reason, self.remedy = code, reason, remedy

    def __reduce__(self) -> tuple[type[LedgerFault], tuple[str, str, str]]:
        return LedgerFault, (self.code, self.reason, self.remedy)


CODES = (
    "disk_full", "read_only", "locked", "corrupt", "io_error", "cannot_open", "closed", "busy", "spool_full", "late",
    "unstorable", "newer_schema", "old_sqlite", "segment_missing", "segment_corrupt", "query", "database",
)  # fmt: skip

# Errors of one statement's data rather than of the disk: the batch is tried again op by op, and only the culprit fails.
OF_DATA = (
    apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, apsw.RangeError, OverflowError, TypeError, ValueError,
)  # fmt: skip
# The rest of what SQLite can say. OSError: the folder itself.
OF_DISK = (apsw.Error, OSError)


def from_error(error: Exception, file: Path) -> LedgerFault:
    """The fault behind an error of SQLite or of the file system."""
    what = f"{file}: {error}"
    match error:
        case LedgerFault():
            return error
        case apsw.FullError():
            return LedgerFault("disk_full", what, "free space on the ledger's disk; rows in hand land by themselves then")
        case apsw.ReadOnlyError() | apsw.PermissionsError() | apsw.AuthError() | PermissionError():
            return LedgerFault("read_only", what, "make the ledger's folder and files writable for this user")
        case apsw.BusyError() | apsw.LockedError() | apsw.ProtocolError():
            return LedgerFault(
                "locked", f"{what} (another process held the write lock throughout)",
                "see who has the file open (`fuser`, `lsof`); backups must use `VACUUM INTO` or the backup API",
            )  # fmt: skip
        case apsw.CorruptError() | apsw.NotADBError():
            return LedgerFault("corrupt", what, "stop the gateway, run `bursar check`, restore ledger.db from a backup")
        case apsw.CantOpenError() | FileNotFoundError() | NotADirectoryError():
            return LedgerFault("cannot_open", what, "check that the folder exists and that this user may write to it")
        case apsw.IOError() | OSError():
            return LedgerFault("io_error", what, "check the disk (dmesg); rows in hand land by themselves when it is well")
        case apsw.Error():
            return LedgerFault("database", what, "run `bursar check`; report this with its output if the ledger is sound")
        case _:
            return LedgerFault("unstorable", f"{type(error).__name__}: {error}", "report this: a row must fit its columns")
