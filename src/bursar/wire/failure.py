"""Whether a tool's answer is a failure. Conservative: an answer that only talks about errors is none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from ..domain.shape import Shape

LOOK = 400  # characters looked into for a shape; a failure says so at once
SHORT = 300  # an answer of at most so many is nothing but what it says


class Sign(Shape, frozen=True, gc=False):
    """A pattern of the operator's own: an answer of `tool` (empty: of any) whose first 400 characters match has failed."""

    name: str
    tool: str
    pattern: re.Pattern[str]


def sign(name: str, tool: str, pattern: str) -> Sign:
    """ValueError where the pattern is none."""
    try:
        return Sign(name, tool, re.compile(pattern))
    except re.error as bad:
        raise ValueError(f"{pattern!r} is not a regular expression: {bad}") from bad


# Each begins at the answer's first character. Nested quantifiers are avoided: these run on what strangers send.
_EXCEPTION = re.compile(
    r"(?:error:? )?traceback \(most recent call last\)"
    r"|(?:[a-z_][a-z0-9_]{0,60}\.){0,6}[a-z_]{1,60}(?:error|exception)(?: ?:|\(| \[)"
    r"|(?:uncaught|unhandled) (?:exception|error)\b"
    r"|panic: |exception in thread \"",
    re.IGNORECASE,
)
_ERROR = re.compile(
    r"[<\[(*]{0,3}(?:(?:fatal |internal |unexpected |tool |function |mcp |server |api |validation )?error|failed|failure|exception)"
    r"[\])>*]{0,3}(?: ?:|: | - |!| code| \d{3}\b|$)"
    r"|\[error\]|<(?:tool_)?error>|\*\*error"
    r"|(?:tool|function|command|call|request|execution|connection)(?: [\w\"'`./:-]{1,60})?"
    r" (?:failed|errored|timed out|was refused|not found|does not exist|is not available)\b"
    r"|failed to [a-z]+ .{0,200}: "
    r"|(?:unknown|no such|invalid) (?:tool|function)\b",
    re.IGNORECASE,
)
_HTTP = re.compile(
    r"(?:http[/ ]?(?:\d\.\d )?|status(?: code)?:? ?|error code:? ?)?\(?[45]\d\d\)? ?(?:[:\-] ?|,? )(?:[a-z]|\{)", re.IGNORECASE
)
_HTTP_WORDS = re.compile(
    r"\b[45]\d\d\W{0,3}(?:bad request|unauthori[sz]ed|payment required|forbidden|not found|method not allowed|conflict|gone"
    r"|unprocessable|too many requests|(?:internal )?server error|bad gateway|service unavailable|gateway time-?out)\b"
    r"|^http(?:/\d\.\d)? (?:error |status )?[45]\d\d\b",
    re.IGNORECASE,
)
_TIMEOUT = re.compile(r"\btimed[ -]?out\b|\btimeout(?: error| exceeded| after|:|$)|\bdeadline exceeded\b|\betimedout\b", re.IGNORECASE)
_NETWORK = re.compile(
    r"\bconnection (?:refused|reset|aborted|closed)\b|\beconn(?:refused|reset)\b|\brate limit(?:ed| exceeded)\b"
    r"|\bname resolution\b",
    re.IGNORECASE,
)
_CUT = re.compile(r"truncated|omitted|\.\.\.\W{0,12}$|\u2026\W{0,12}$", re.IGNORECASE)

# What an envelope around an error holds beside it. A record that has an "error" among its own fields is no failure.
_ENVELOPE = frozenset((
    "error", "errors", "message", "msg", "code", "status", "statuscode", "status_code", "success", "ok", "detail", "details", "type",
    "reason", "hint", "description", "error_code", "errorcode", "error_message", "errormessage", "error_type", "is_error", "iserror",
    "request_id", "requestid", "trace_id", "traceid", "timestamp", "retryable", "retry_after", "tool", "traceback", "stack", "path",
))  # fmt: skip
_SAYING = frozenset((
    "error", "errors", "message", "msg", "detail", "details", "reason", "description", "error_message", "errormessage",
))  # fmt: skip
_BAD = frozenset(("error", "failed", "failure", "fail", "timeout", "exception", "err"))


def of_text(text: str) -> str:
    """The class of a failure that a plain answer states, empty for none. `text` without blanks around it."""
    head = text[:LOOK]
    if _EXCEPTION.match(head):
        return "timeout" if _TIMEOUT.search(head) else "exception"
    short = len(text) <= SHORT
    if _ERROR.match(head):
        line = head.partition("\n")[0]
        # "Errors: 0" and "Failed: none" are reports; "Error handling in Go" is a title.
        if not _NONE.match(line):
            return "timeout" if _TIMEOUT.search(line) else "http" if _HTTP_WORDS.search(line) else "error"
    if short:
        if "\n" not in text and _TIMEOUT.search(text):
            return "timeout"
        if _HTTP_WORDS.search(text) and (_HTTP.match(text) or _HTTP_WORDS.match(text)):
            return "http"
        if "\n" not in text and _NETWORK.search(text):
            return "error"
    return ""


# What a tool complains of, in its first line. Weaker than a failure: it charges nobody, but an agent that hears the same complaint
# again and again gets nowhere. A name in a path ("error/handler.py") is no complaint, and finding nothing is an answer.
_COMPLAINT = re.compile(
    r"(?<![\w/.\-])(?:error(?:s|\(s\))?|exception|invalid|unrecogni[sz]ed|unsupported|illegal|usage|denied|refused|failed|timed out"
    r"|cannot|can't|could not|couldn't|unable to|not allowed|not permitted|not a valid|must be|command not found|no such)(?![\w/\-])",
    re.IGNORECASE,
)
COMPLAINT_MAX = 4_096  # characters: a long answer is more than a complaint


def complains(text: str) -> bool:
    return len(text) <= COMPLAINT_MAX and _COMPLAINT.search(text.partition("\n")[0][:120]) is not None


_NONE = re.compile(r"\W*\w+\W+(?:0\b(?!\.\d)|(?:none|null|false)\b|\[\]|n/a\b|no\W*$)", re.IGNORECASE)


def of_json(value: Any) -> str:
    """The same for an answer that is a JSON object: an error flag, or an envelope with nothing but an error in it."""
    if not isinstance(value, dict):
        return ""
    body = {str(key).lower(): part for key, part in cast("dict[Any, Any]", value).items()}
    if body.get("iserror") is True or body.get("is_error") is True:
        return "flag"
    rest = [key for key, part in body.items() if key not in _ENVELOPE and not _nothing(part)]
    said = body.get("error")
    said = body.get("errors") if _nothing(said) else said
    if rest:
        return ""
    why = ""
    if not _nothing(said) and not isinstance(said, int | float):
        why = "error"
    elif (body.get("success") is False or body.get("ok") is False) and _SAYING & body.keys():
        why = "error"
    else:
        status = body.get("status")
        if isinstance(status, str) and status.lower() in _BAD and _SAYING & body.keys():
            why = "error"
        for key in ("status", "status_code", "statuscode", "code"):
            number = body.get(key)
            if isinstance(number, int) and 400 <= number < 600 and _SAYING & body.keys():
                why = "http"
    if why and _TIMEOUT.search(str(cast("object", said) or body.get("message") or body.get("detail") or "")[:LOOK]):
        return "timeout"
    return why


def code(value: Any) -> bool:
    """Whether an answer that is a JSON object says that a program ended with a code other than 0, itself or in its metadata."""
    if not isinstance(value, dict):
        return False
    body = cast("dict[Any, Any]", value)
    about: Any = body.get("metadata")
    for part in (body, cast("dict[Any, Any]", about)) if isinstance(about, dict) else (body,):
        for key in ("exit_code", "exitCode", "returncode"):
            number = part.get(key)
            if isinstance(number, int) and not isinstance(number, bool) and number != 0:
                return True
    return False


def _nothing(part: Any) -> bool:
    return part is None or part is False or part == "" or part == [] or part == {}


def cut(text: str) -> bool:
    """Whether somebody shortened the answer on its way: then that it does not parse says nothing about the tool."""
    return _CUT.search(text[-80:]) is not None


def of_signs(signs: Sequence[Sign], tool: str, text: str) -> str:
    """The name of the operator's pattern that this answer matches."""
    head = text[:LOOK]
    for own in signs:
        if (not own.tool or own.tool == tool) and own.pattern.search(head):
            return own.name
    return ""
