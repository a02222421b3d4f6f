"""Recorded runs as interleaved requests of stateless clients: who is recognised, and what could not be told apart by anybody."""

from __future__ import annotations

import json
import random
from array import array
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bursar.domain.history import History, Reply
from bursar.domain.thread import GOOD, Ask, Heard, Index, Landmark
from bursar.rules.thread import follow, heard
from bursar.wire.history import Signs
from bursar.wire.openai_history import chat_message, reply
from recorded_agents import Run, Step, Turn, messages

SECOND = 1_000_000
Trim = Callable[[list[bytes]], list[bytes]]


class Talk(NamedTuple):
    """A run made ready: its messages as bytes, where each request stood, and the replies."""

    run: Run
    raws: list[bytes]
    turns: list[Turn]
    replies: list[Reply]


def ready(run: Run) -> Talk:
    said, turns = messages(run)
    replies = [
        reply(turn.reply["content"] or "", [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in turn.reply.get("tool_calls", ())])
        for turn in turns
    ]  # fmt: skip
    return Talk(run, [json.dumps(message).encode() for message in said], turns, replies)


class Score(NamedTuple):
    """Requests, by what became of them. `right`: in the conversation that the run's first request was given. `twins`: another
    conversation of the tenant stands at its last reply with the very messages that this request shows up to there, so that nobody
    can tell which of the two goes on; from there on the two count as exchanged."""

    requests: int
    right: int
    twins: int
    wrong: int
    across: int  # placed in another tenant's conversation
    off: int  # right, but with another turn number or number of tool results than the whole history has
    unsure: int  # flagged as ambiguous
    conversations: int  # that were made up for the runs

    @property
    def share(self) -> float:
        """Of those that could be told apart."""
        return self.right / max(self.requests - self.twins, 1)


def whole(raws: list[bytes]) -> list[bytes]:
    return raws


def _start(raws: list[bytes], number: int) -> int:
    """Where the last `number` messages begin, with the call whose results they begin with."""
    at = max(len(raws) - number, 1)
    while at > 1 and raws[at].startswith(b'{"role": "tool"'):
        at -= 1
    return at


def last(number: int) -> Trim:
    """The system prompt and so many messages from the end."""
    return lambda raws: [raws[0], *raws[_start(raws, number) :]]


def middle(number: int) -> Trim:
    """The system prompt, the first two messages, and so many from the end."""
    return lambda raws: [*raws[:3], *raws[max(_start(raws, number), 3) :]]


def replay(
    talks: Sequence[Talk], index: Index, *, seed: int = 1, trim: Trim = whole, tenants: int = 1, live: int = 0,
    indexes: Sequence[Index] = (),
    keep: Callable[[tuple[Landmark, ...]], None] = lambda landmarks: None,
) -> Score:  # fmt: skip
    """All talks under way at once (or `live` of them), the next request always of a talk picked at random. With several
    `indexes` each request goes to one of them by chance, as to workers."""
    chance = random.Random(seed)
    teller = Signs().teller("openai_chat", chat_message)
    owner: dict[str, int] = {}  # conversation -> run
    given: dict[int, str] = {}  # run -> conversation
    at = [0] * len(talks)
    stands: dict[int, tuple[array[int], int]] = {}  # what each run's last request showed, and the reply
    waiting = list(range(len(talks)))
    chance.shuffle(waiting)
    active = [waiting.pop() for _ in range(min(live or len(talks), len(talks)))]
    tenant_of = [f"tenant-{n % tenants}" for n in range(len(talks))]
    number = right = twins = wrong = across = off = unsure = 0
    while active:
        slot = chance.randrange(len(active))
        which = active[slot]
        talk, turn, tenant = talks[which], talks[which].turns[at[which]], tenant_of[which]
        number += 1
        now = number * SECOND
        sent = trim(talk.raws[: turn.before])
        history = teller.tell(sent)
        here = chance.choice(indexes) if indexes else index
        placed = follow(here, Ask(tenant, f"call-{number}", now, history, model="m", body=number))
        unsure += placed.ambiguous
        mine = given.setdefault(which, placed.conversation)
        theirs = owner.setdefault(placed.conversation, which)
        across += tenant_of[theirs] != tenant
        if mine == placed.conversation and theirs == which:
            right += 1
            off += (placed.turns, placed.calls) != counts(talk, turn.before)
        elif at[which] and alike(*_shown(history, sent, talk.raws[: turn.before]), *stands[theirs]):
            twins += 1
            owner[placed.conversation], owner[mine] = which, theirs
            given[which], given[theirs] = placed.conversation, mine
        else:
            wrong += 1
        keep(heard(here, Heard(placed, GOOD, "", talk.replies[at[which]], "", False, now)))
        said = array("Q", [part & 0xFFFFFFFFFFFFFFFF for part in talk.replies[at[which]].parts])
        stands[which] = history.digests + said, in_one_piece(sent, talk.raws[: turn.before]) + 1
        at[which] += 1
        if at[which] == len(talk.turns):
            active[slot] = active[-1]
            active.pop()
            if waiting:
                active.append(waiting.pop())
    return Score(number, right, twins, wrong, across, off, unsure, len(owner))


def _shown(history: History, sent: list[bytes], everything: list[bytes]) -> tuple[array[int], int]:
    """What a request shows up to its last reply, and how much of that stands in one piece."""
    fresh = history.end.messages - history.reply_at - 1
    return history.digests[: len(history.digests) - fresh], in_one_piece(sent, everything) - fresh


def alike(shown: array[int], here: int, stand: array[int], there: int) -> bool:
    """Whether a request that shows these messages up to its last reply may as well carry on from `stand`: `here` and `there`
    are how many of the two stand in one piece at the end."""
    number = min(here, there)
    return number > 0 and shown[-number:] == stand[-number:]


def in_one_piece(sent: list[bytes], everything: list[bytes]) -> int:
    """How many messages at the end were sent as they stand, with none left out between them."""
    number = 0
    while number < len(sent) - 1 and sent[-1 - number] is everything[-1 - number]:
        number += 1
    return number


def counts(talk: Talk, before: int) -> tuple[int, int]:
    """Human turns and tool results that a whole history up to there has."""
    sent = talk.raws[:before]
    return sum(raw.startswith(b'{"role": "user"') for raw in sent), sum(raw.startswith(b'{"role": "tool"') for raw in sent)


def opening(number: int, replies: Sequence[str]) -> list[Talk]:
    """Conversations with one and the same opening, that differ from the second thing people say."""
    talks: list[Talk] = []
    for n in range(number):
        said = replies[n % len(replies)].replace("#", str(n))
        steps = (Step(said, (), 0.0, f"My name is number {n}."), Step("Noted.", (), 0.0, "Go on."), Step("Done.", (), 0.0))
        talks.append(ready(Run(f"same-{n}", "same", True, "Hello", steps)))
    return talks
