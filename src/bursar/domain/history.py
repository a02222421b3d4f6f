"""What the messages of one request say, whatever API carried them: shapes that wire reads and rules judge."""

from __future__ import annotations

from array import array

from .shape import Shape

SYSTEM, HUMAN, ASSISTANT, TOOL = range(4)  # whose message it is

# A conversation's chain is a polynomial over the digests of what was said, so that it can be carried on by one
# multiplication a message, and be compared whatever API or model the same messages are sent to. Digests are 128-bit
# hashes; whoever chose messages to make two chains equal would only confuse his own conversations, because a tenant is
# part of every key (see rules/thread.py).
MODULUS = (1 << 127) - 1
BASE = 0x2B7E151628AED2A6ABF7158809CF4F3C  # any large number does; it must never change while ledgers remember chains
TAIL = 24  # pairs of call and result that are kept: what loops are looked for in


class Use(Shape, frozen=True, gc=False):
    """A tool call that the model asked for. `digest` is of name and canonical arguments (64 bits), `preview` for people."""

    id: str
    name: str
    digest: int
    preview: str = ""


class Result(Shape, frozen=True, gc=False):
    """What a tool answered. `digest` (64 bits) is of the text with moments, durations and long ids masked."""

    id: str  # the call it answers
    name: str  # where the message itself names the tool
    digest: int
    failed: str = ""  # why it is no result: flag, exception, error, http, timeout, empty, malformed, or a pattern's name
    error: int = 0  # digest of the masked first line, where that is a failure or at least a complaint; else 0
    weight: int = 0
    shape: int = 0  # EMPTY, TEXT, JSON, BROKEN
    own: tuple[tuple[str, str], ...] = ()  # (tool, name) of the operator's patterns that it matches
    code: bool = False  # it says that a program ended with a code other than 0, which may be what was asked for


EMPTY, TEXT, JSON, BROKEN = range(4)  # of a text: nothing, prose, JSON that parses, JSON that does not


class Message(Shape, frozen=True, gc=False):
    """One message of a request, or one item where the API sends items."""

    kind: int
    digest: int = 0  # what it adds to the chain; 0 with power 1: nothing (reasoning, an empty text)
    power: int = 1  # BASE to the number of things it says
    weight: int = 0  # bytes as they count for shares: what is sent in base64 counts as IMAGE_WEIGHT
    uses: tuple[Use, ...] = ()
    results: tuple[Result, ...] = ()
    shape: int = EMPTY  # of the text
    text: int = 0  # the text's hash in this process; never stored
    lines: tuple[int, ...] = ()  # … of a person's text, its first long lines'
    repair: bool = False  # a person's or program's text that asks for valid output
    marked: bool = False  # has a prompt cache marker, which moves on: it will be sent again without
    hour: bool = False  # … that asks for one hour
    remote: str = ""  # why its bytes do not bound its tokens
    print: int = 0  # of a system message: its fingerprint


class Mark(Shape, frozen=True, gc=False):
    """The end of a message: where an earlier request, or the reply to it, may have ended. Counts are up to there."""

    chain: int
    turns: int
    depth: int
    calls: int
    messages: int  # that say something, the system's not counted


START = Mark(0, 0, 0, 0, 0)
DIGESTS = 24  # messages at the end whose digests are kept


class Pairs(Shape, frozen=True, gc=False):
    """The last calls and what came of them, oldest first, at most TAIL. Since the last thing a person said that was new.
    Nobody changes the arrays: they are that for their size."""

    names: tuple[str, ...]
    calls: array[int]
    results: array[int]
    errors: array[int]  # of what was a failure or a complaint; else 0
    run: int = 0  # how often the newest pair has come in a row, also beyond TAIL


def pairs() -> Pairs:
    return Pairs((), array("Q"), array("Q"), array("Q"))


def paired(before: Pairs, name: str, call: int, result: int, error: int) -> Pairs:
    """The pairs with one more. An agent's text and what it was told next are a pair without a name."""
    names, calls, results, errors = before.names, before.calls, before.results, before.errors
    run = before.run + 1 if names and calls[-1] == call and results[-1] == result else 1
    if len(names) >= TAIL:
        names, calls, results, errors = names[1:], calls[1:], results[1:], errors[1:]
    return Pairs((*names, name), calls + array("Q", (call,)), results + array("Q", (result,)), errors + array("Q", (error,)), run)


def without_tools(before: Pairs) -> Pairs:
    """What is left when a person says something new: what tools answered before is no sign of being stuck any more."""
    keep = [at for at, name in enumerate(before.names) if not name]
    if len(keep) == len(before.names):
        return before
    columns = (before.calls, before.results, before.errors)
    calls, results, errors = (array("Q", [column[at] for at in keep]) for column in columns)
    return Pairs(tuple([before.names[at] for at in keep]), calls, results, errors, min(before.run, 1) if keep else 0)


NO_PAIRS = pairs()


class Failed(Shape, frozen=True, gc=False):
    """A tool whose newest result is none. `doubt`: digest of the call (64 bits) where the result may be meant so, nothing found, a
    test that fails: then it has failed only if the same is asked again in the same words, now or after such an answer before.
    0: no doubt. `said`: digest of an answer that only as it stands is one such."""

    tool: str
    why: str
    weight: int
    doubt: int = 0
    said: int = 0


class History(Shape, frozen=True, gc=False):
    """A request's messages, read once. What came after the last message of the assistant is new."""

    end: Mark
    marks: tuple[Mark, ...]  # newest first, the end not among them: where an earlier request may have ended
    digests: array[int]  # 64 bits of each of the last messages that say something, oldest first, at most DIGESTS
    root: int  # chain at the end of the first reply; 0: there was none yet
    replied: bool  # the assistant has said something
    reply_at: int  # messages before its last reply
    pairs: Pairs
    fresh_pairs: int  # how many of them are new
    preview: str  # of the newest call
    failed: tuple[Failed, ...]  # new results that are failures
    fresh_human: int  # messages of people among the new ones
    fresh_results: int  # results of tools among them
    human_text: int  # hash of the newest human text, in this process only
    human_lines: tuple[int, ...]  # … of its long lines, where it opens a conversation
    said_shape: int  # of the assistant's last text
    repair: bool  # the newest human message asks for valid output
    weights: tuple[int, int, int, int]  # bytes: new, history, tool results, system prompt and schemas
    runs: array[int]  # the last messages as weight * 4 + kind, oldest first
    loose: tuple[Result, ...]  # results of calls that are not among the messages: the provider keeps those
    remote: str  # why bytes do not bound the tokens of some message
    hour: bool  # some message asks for one-hour cache writes
    print: int  # fingerprint of the system's first message


LONG_LINE = 40  # characters of a line that is not likely to come twice by chance
LINES = 8


def long_lines(text: str) -> tuple[int, ...]:
    """Hashes of the first long lines of a text: a summary is carried on with something put around it. In this process only."""
    return tuple([hash(line) for line in map(str.strip, text[:8192].split("\n")) if len(line) >= LONG_LINE][:LINES])


class Reply(Shape, frozen=True, gc=False):
    """What was answered, in the same terms: it stands in the next request's messages."""

    digest: int = 0
    power: int = 1
    parts: tuple[int, ...] = ()  # digests of the messages or items that it will be
    uses: tuple[Use, ...] = ()
    prompts: tuple[int, ...] = ()  # hashes of long texts given to tools: a sub-agent begins with one
    text: str = ""  # where it is long enough to be a summary, which somebody carries on
