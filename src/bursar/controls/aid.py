"""The controls of one call, in the order in which the pipeline asks for them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from ..domain.call import Asked, Headers, Incoming, Reading, UseModel
from ..domain.entry import Entry, Settlement
from ..domain.labels import Labels
from ..domain.outline import Outline
from ..domain.price import Price
from ..domain.reply import Kept
from ..domain.shape import Shape, replace
from ..domain.thread import Placed
from ..domain.usage import Tokens
from ..effects import Consult, Effect, Keep, Note, Seek, Sorted, Turn
from ..rules import compact, price, reuse, route, saving
from ..rules.course import Course
from ..wire import Dialect, Reader, batch, elide, outline, question, replay, sorting, summarise, transcript
from ..wire.own import request as own_request
from ..wire.recording import Recording
from .near import Near
from .own import Ask, Own
from .setting import Controls, Prices, Provider, reach

LEAST = 4_096  # bytes of a request with anything in it that could go
WARM_US, WARM_HOUR_US = 300_000_000, 3_600_000_000  # how long providers keep a prompt
CACHED_LEAST = 1_024  # tokens of a prompt from which on providers that cache by themselves do
# Vectors of 3,072 dimensions take 66 KB as text and 16 KB in base64; an answer is held back only up to 32 MB.
MISSING_MAX, MISSING_COMPACT = 400, 1_500
SUMMARY_CAP = 1_500  # output tokens of a summary
BYTES_A_TOKEN = 4


class Again(Shape, frozen=True, gc=False):
    """A reply that was given before. `saved`: what making it again would cost, and what that would cost without other controls."""

    model: str
    saved: Mapping[str, saving.Saving]
    headers: Headers
    body: bytes
    reading: Reading


class Aid:
    """The controls of one call."""

    def __init__(
        self, controls: Controls, call: Incoming, key: str, models: tuple[str, ...], dialect: Dialect, path: str,
        providers: Mapping[str, Any], provider: Provider, prices: Prices, asked: Asked, labels: Labels, placed: Placed | None,
        ask: Ask, kept_whole: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self._ask, self._kept_whole = ask, kept_whole
        self._controls, self._call, self._caller, self._models = controls, call, key, models
        self._dialect, self._path, self._providers, self._prices = dialect, path, providers, prices
        self._provider, self._asked, self._labels, self._placed = provider, asked, labels, placed
        self.body = call.body  # what is asked for: of a batch only what is missing
        self.cache = b"off"  # x-bursar-cache
        self.tier = self.why = ""
        self._wall = ""
        self._key = b""
        self._turn: Turn | None = None
        self._near: Near | None = None
        self._whole: bytes | None = None  # the reply, where it was put together already
        self._batch: batch.Batch | None = None
        self._keys: tuple[bytes, ...] = ()
        self._found: tuple[Kept | None, ...] = ()
        self._judged = False  # a router has chosen
        self._sorted: tuple[int, bool] | None = None  # what the classifier took, and whether it gave an answer
        self._dear = ""  # the model that is compared with
        self._would = ""  # the model that a rule in shadow would have chosen
        self._course: Course | None = None
        self._outline: Outline | None = None
        self._decision: compact.Decision | None = None
        self._state = compact.State()
        self._shadow = False
        self._sent = 0

    # -- the reply cache -------------------------------------------------------------------------------------------------

    def look(self) -> Generator[Effect, Any, Again | None]:
        """A kept reply, in the form the client asks for. None: the call is to be made, and `body` is what to ask."""
        setting, asked, call = self._controls.cache, self._asked, self._call
        if setting is None or len(call.body) > setting.body_max or asked.unbounded_input:
            return None
        wall = reuse.wall(self._labels, self._caller, setting)
        if wall is None:
            return None
        dialect = self._dialect.name
        asks = question.question(dialect, call.body)
        if asks is None or reuse.refuses(asked, asks, self._labels, setting, len(call.body)):
            return None
        self._wall, self.cache = wall, b"miss"
        counted = question.counted(call.headers, call.query) + self._controls.salt
        if asked.embedding:
            return (yield from self._vectors(counted))
        self._key = reuse.key(wall, self._provider.name, dialect, asked.model, counted, asks.canon)
        self._turn = Turn()
        (kept,) = yield Seek(wall, (self._key,), call.ts_us, call.call_id, self._turn)
        control = "cache"
        if kept is None:
            self._near = Near.of(setting, wall, self._labels, asked, dialect, self._provider.name, counted, call)
            kept = (yield from self._near.look(self._ask)) if self._near is not None else None
            control = "near"
        if kept is None:
            return None
        array = dialect == "gemini_generate" and "alt=sse" not in call.query
        made = replay.replay(dialect, kept, asked, call.call_id, array)
        if made is None:
            return None
        self.cache = b"hit" if control == "cache" else b"near"
        self._turn.leave()
        told = {control: saving.answered(kept.pico, control)}
        if kept.less:
            told["tiers"] = saving.Saving("tiers", kept.less, 0, kept.less - abs(kept.less) // 5, kept.less + abs(kept.less) // 5)
        return Again(kept.model, told, *made, self._dialect.whole(200, kept.body))

    def _vectors(self, counted: bytes) -> Generator[Effect, Any, Again | None]:
        call = self._call
        self._batch = asks = batch.split(self._path, call.body)
        if asks is None:
            return None
        named = (self._wall, self._provider.name, self._dialect.name, self._asked.model, counted + b"\0one")
        self._keys = tuple([reuse.key(*named, one) for one in asks.inputs])
        self._found = found = yield Seek(self._wall, self._keys, call.ts_us, call.call_id)
        missing = [at for at, kept in enumerate(found) if kept is None]
        if missing:
            whole = len(missing) > (MISSING_COMPACT if b'"base64"' in call.body else MISSING_MAX)
            if whole:  # its answer may be too long to be put together
                self._found = (None,) * len(found)
            else:
                self.body = batch.only(call.body, asks, missing)
            return None
        self.cache = b"hit"
        kept = [one for one in found if one is not None]
        body = batch.merged(asks, [one.body for one in kept], kept[0].model, Tokens())
        told = {"embeddings": _embedded(kept)}
        return Again(kept[0].model, told, [(b"content-type", b"application/json")], body, Reading(model_served=kept[0].model))

    def recording(self, reader: Reader) -> Reader:
        """The reader of a stream, which remembers it where its reply may be kept."""
        setting = self._controls.cache
        return Recording(reader, 4 * setting.reply_max) if self._turn is not None and setting is not None else reader

    def came(self, status: int, plain: bytes | None, stream: bool, reading: Reading, own: bool) -> None:
        """The reply, before its row is written: what a near-duplicate would have said is compared with it."""
        if self._near is not None and self._near.kept is not None and plain is not None and own:
            self._whole = replay.whole(self._dialect.name, plain, stream)
            self._near.judge(status, reading, self._whole)

    def keep(self, settled: Settlement, status: int, plain: bytes | None, stream: bool, reading: Reading, own: bool) -> (
        Generator[Effect, Any, bytes | None]
    ):  # fmt: skip
        """After the row: what may answer again, and the client's own body where it is another than came. `own`: the reply is the
        one that was asked for, from the model asked for, of all that was asked."""
        setting, entry, now = self._controls.cache, settled.entry, self._call.ts_us
        if setting is None or (self._turn is None and self._batch is None):
            return None
        until = now + reuse.ttl_us(self._labels, setting)
        cost = entry.cost or 0
        if self._batch is not None:
            return (yield from self._keep_vectors(self._batch, plain, status, entry, until, own))
        turn = self._turn
        assert turn is not None, "a question has its turn"
        near = self._near
        if near is not None:
            yield from near.sampled()
        body = self._whole
        if body is None and plain is not None and own:
            body = replay.whole(self._dialect.name, plain, stream)
        if body is None or reuse.refuses_reply(status, reading, replay.calls_tools(body), len(body), setting):
            turn.leave()
            return None
        model = entry.model_served
        its = saving.of(entry).get("tiers")
        less = its.net if its is not None else 0
        framed = near.indexed(body) if near is not None else None
        yield Keep(self._wall, ((self._key, Kept(body, False, model, now, until, cost, self._call.call_id, less)),), now, turn, framed)
        return None

    def _keep_vectors(
        self, asks: batch.Batch, plain: bytes | None, status: int, entry: Entry, until: int, own: bool
    ) -> Generator[Effect, Any, bytes | None]:
        missing = [at for at, kept in enumerate(self._found) if kept is None]
        if status != 200 or plain is None:
            return None
        came = batch.vectors(asks, plain, len(missing))
        if came is None:
            return None
        sizes = [len(asks.inputs[at]) for at in missing]
        whole, cost, now = sum(sizes), entry.cost or 0, self._call.ts_us
        kept = tuple([
            (self._keys[at], Kept(vector, False, entry.model_served, now, until, cost * size // whole, self._call.call_id))
            for at, vector, size in zip(missing, came, sizes, strict=True)
        ])  # fmt: skip
        if own:
            yield Keep(self._wall, kept, now)
        if len(missing) == len(asks.inputs):
            return None
        fresh = dict(zip(missing, came, strict=True))
        vectors = [fresh[at] if known is None else known.body for at, known in enumerate(self._found)]
        return batch.merged(asks, vectors, entry.model_served, Tokens(input=entry.input or 0), plain)

    @property
    def partial(self) -> bool:
        """Whether only a part of what the client asked for goes to the provider."""
        return self.body is not self._call.body

    # -- tiers -----------------------------------------------------------------------------------------------------------

    def route(self, stopped: bool = False) -> Generator[Effect, Any, tuple[str, str]]:
        """(provider, model) to ask. `stopped`: a guard will stop the call, so that nothing is spent on it."""
        asked, labels, controls = self._asked, self._labels, self._controls
        same = (self._provider.name, asked.model)
        named = route.tier_asked(asked.model)
        if not controls.tiers or not (named or controls.rules):
            return same
        places = {tier: reach(names, self._providers, self._provider, self._price) for tier, names in controls.tiers.items()}
        reached = {tier: place for tier, place in places.items() if place is not None}
        tiers = {tier: model for tier, (_, model) in reached.items()}

        def fact(name: str) -> str:
            return asked.model if name == "model" else self._caller if name == "key" else labels.get(name)

        auto = named == "auto" or any(r.tier == "auto" and all(fact(n) == v for n, v in r.when) for r in controls.rules)
        if auto or labels.conversation:
            text = question.newest(self._dialect.name, self._call.body) if auto else ""
            self._course = yield Consult(labels.conversation, labels.flow, self._call.ts_us, labels.feature, text)
        course = self._course or Course()
        self._judged = bool(course.judged[0])
        said, failed = course.judged, ""
        if auto and not stopped and controls.classifier and (not said[0] or said[1] == route.STANDS_BACK):
            if route.left_open(asked.model, fact, controls.rules, tiers):
                said, failed = yield from self._classified(course, tiers)
                self._judged = self._judged and said == course.judged
        judged = (lambda: said) if said[0] else None
        choice = route.choose(asked.model, fact, controls.rules, tiers, judged)
        self._would = tiers.get(choice.would, "")
        if self._would == asked.model:
            self._would = ""
        if not choice.model:
            if self._would:
                self.why = f"shadow:{choice.would}"
            return same
        provider, model = reached[choice.tier]
        if self._models and model not in self._models and not named:
            return same
        self.tier, self.why = choice.tier, failed + choice.why
        if choice.why != "asked" and self._stays(course, provider, model, reached):
            provider, model = course.provider, course.model
            self.tier, self.why = course.tier, f"stays; {choice.why}"
        if choice.why != "asked":  # a client that names a tier gets what it asked for, and that saves nothing
            self._dear = tiers.get("premium", "") if named else asked.model
        return provider, model

    def _classified(self, course: Course, tiers: Mapping[str, str]) -> Generator[Effect, Any, tuple[tuple[str, str], str]]:
        """((tier, why) as the cheap model sees it, what went wrong). Not asked in a conversation that is under way, whose prompt is
        warm somewhere, nor while it loses money or fails again and again."""
        if course.tier in tiers and self._call.ts_us < course.warm_until_us:
            return (course.tier, "classifier:earlier"), ""
        if course.quiet:
            return course.judged, f"{course.quiet}; "
        text = question.newest(self._dialect.name, self._call.body)
        place = reach(self._controls.classifier, self._providers, self._provider, self._price)
        if not text or place is None:
            return course.judged, ""
        provider, model = place
        body = sorting.request(self._dialect.name, model, text, tuple(tiers))
        path, body = self._addressed(model, body)
        answer, paid = yield from self._ask(Own("tier", "tiers", provider, path, body, self._controls.within_s))
        tier = sorting.answered(replay.said(answer), tiers) if answer is not None else ""
        self._sorted = paid, bool(tier)
        return ((tier, "classifier"), "") if tier else (course.judged, "classifier gave no answer; ")

    def _stays(self, course: Course, provider: str, model: str, reached: Mapping[str, tuple[str, str]]) -> bool:
        """Whether the conversation stays where its prompt is warm."""
        if not course.model or course.model == model or self._call.ts_us >= course.warm_until_us:
            return False
        now, then = self._price(course.provider, course.model), self._price(provider, model)
        if now is None or then is None or (course.provider, course.model) not in {*reached.values(), (provider, self._asked.model)}:
            return False
        a, b = (compact.rates(its, course.context) for its in (now, then))
        return route.stays(route.Card(a.read, a.write, a.output), route.Card(b.read, b.write, b.output), course.context, course.left)

    def _price(self, provider: str, model: str) -> Price | None:
        its = self._providers.get(provider)
        return self._prices.find(its.prices, model, self._call.ts_us, self._asked.service_tier, self._asked.batch) if its else None

    # -- a shorter history -----------------------------------------------------------------------------------------------

    def shorten(self, price: Price | None, aggressive: bool) -> Generator[Effect, Any, bytes]:
        """The body to send. `aggressive`: a budget's ladder asks for it, whatever `[compact]` says."""
        controls, labels, body = self._controls, self._labels, self.body
        mode = "on" if aggressive else controls.flows.get(labels.flow, controls.mode)
        if mode == "on" and not aggressive and (labels.flow in self._kept_whole or self._held_out()):
            mode = "shadow"
        if mode == "off" or price is None or len(body) < LEAST or not labels.conversation or self._asked.history is None:
            return body
        course = self._course
        if course is None:
            course = self._course = yield Consult(labels.conversation, labels.flow, self._call.ts_us)
        setting = compact.AGGRESSIVE if aggressive else controls.setting
        its = self._summariser() if setting.summarise_every else None
        seen = outline.outline(self._dialect.name, body, keyed=bool(setting.summarise_every))
        hour = self._asked.cache_1h
        rates = compact.rates(price, len(body) // BYTES_A_TOKEN, hour)
        decision = compact.decide(
            seen, setting, rates, course.state, self._call.ts_us, course.purse * 1_000 * BYTES_A_TOKEN, course.left,
            compact.rates(its, len(body) // BYTES_A_TOKEN) if its is not None else None,
        )  # fmt: skip
        lines, self._state = compact.lines(decision, seen, setting, lambda piece: elide.text(body, piece))
        self._outline, self._decision, self._shadow = seen, decision, mode == "shadow"
        standing = decision.standing
        put = elide.Summary(standing.first, standing.span, summarise.OPENING + standing.text) if standing is not None else None
        shorter = elide.elide(self._dialect.name, body, seen, lines, put)
        self._sent = len(shorter)
        return body if self._shadow else shorter

    def _held_out(self) -> bool:
        """Whether the conversation is one of those that outcomes are compared with; the same one for all of its calls."""
        most = self._controls.holdout
        if not most:
            return False
        return int.from_bytes(blake2b(self._labels.conversation.encode(), digest_size=2, person=b"holdout").digest()) < most

    def _summariser(self) -> Price | None:
        provider, model = self._controls.summariser
        return self._price(provider or self._provider.name, model) if model else None

    # -- the books -------------------------------------------------------------------------------------------------------

    def account(self, settled: Settlement, tokens: Tokens | None, its_price: Price | None, useless: bool) -> Settlement:
        """The row with what was saved, net of what that took in this very call, and what a control in shadow would have. `useless`:
        the answer is malformed; where a tier chose the model, that try was for nothing."""
        entry = settled.entry
        told: dict[str, saving.Saving] = {}
        would: saving.Saving | None = None
        if tokens is not None and its_price is not None and entry.cost is not None and entry.status == "ok":
            its = self._compacted(tokens, its_price)
            if its is not None and self._shadow:
                would = its
            elif its is not None and (its.gross or its.own):
                told["compaction"] = its
            dear = self._price(self._provider.name, self._dear) if self._dear and self._dear != entry.model_served else None
            if dear is not None and useless:
                told["tiers"] = saving.Saving("tiers", 0, entry.cost, -entry.cost, -entry.cost)
            elif dear is not None and (routed := saving.routed(tokens, entry.cost, dear)) is not None:
                told["tiers"] = routed
            if self._would and would is None:
                cheap = self._price(self._provider.name, self._would)
                bill = price.bill(tokens, cheap).pico if cheap is not None else None
                if bill is not None:
                    net = entry.cost - bill
                    would = saving.Saving("tiers", net, 0, net - abs(bill) // 5, net + abs(bill) // 5)
            if self._batch is not None and self.partial:
                told["embeddings"] = _embedded([kept for kept in self._found if kept is not None])
        near = self._near
        if near is not None and near.same is not None and near.kept is not None:
            gross = near.kept.pico if near.same else 0
            would = saving.Saving("near", gross, 0, gross, gross)
        if told or would is not None:
            entry = saving.into(entry, told, would, near.same if near is not None else None)
            settled = replace(settled, entry=entry)
        return settled

    def _compacted(self, tokens: Tokens, its_price: Price) -> saving.Saving | None:
        decision = self._decision
        if decision is None or not (decision.removed or decision.broken):
            return None
        sent = len(self.body) if self._shadow else self._sent
        removed = decision.removed * tokens.input_total // max(sent, 1)
        broken = decision.broken * tokens.input_total // max(sent, 1)
        return saving.compacted(tokens, its_price, removed, broken, decision.warm)

    def note(self, entry: Entry, tokens: Tokens | None) -> Generator[Effect, Any, None]:
        """What the next call of the conversation must know, and how the feature's tiers do."""
        course, labels = self._course, self._labels
        routed = saving.of(entry).get("tiers")
        tally = (routed.gross, routed.own) if routed is not None and self._judged else None
        if self._sorted is not None:
            gross, own = (routed.gross, routed.own) if routed is not None else (0, 0)
            yield Sorted(labels.feature, entry.ts, gross, own, *self._sorted)
            self._sorted = None
        if course is None or not labels.conversation or tokens is None or entry.status != "ok":
            if tally is not None:
                yield Note("", labels.flow, entry.ts, None, feature=labels.feature, tally=tally)
            return
        hour = bool(tokens.cache_write_1h)
        total = tokens.input_total
        lies = total if self._provider.family != "anthropic" and total >= CACHED_LEAST else (
            tokens.cache_read + tokens.cache_write + tokens.cache_write_1h
        )  # fmt: skip
        ttl = WARM_HOUR_US if hour else WARM_US
        until = entry.ts + ttl if lies else 0
        state = course.state
        if self._decision is not None:
            state = compact.remember(self._state, self._decision, entry.ts, ttl, lies / total if total else 0.0)
        saved = saving.of(entry).get("compaction")
        paid = entry.cost or 0
        self._course = course._replace(
            state=state, provider=entry.provider, model=entry.model_served, tier=entry.tier, context=total, warm_until_us=until,
            judged=("", ""),
        )  # fmt: skip
        full = paid + (saved.net if saved is not None else 0)
        yield Note(labels.conversation, labels.flow, entry.ts, self._course, full, paid, labels.feature, tally)

    def summing(self) -> Own | None:
        """The summary that is worth having made now, for the calls to come."""
        decision, seen = self._decision, self._outline
        if decision is None or decision.ask is None or seen is None or self._shadow:
            return None
        provider, model = self._controls.summariser
        said = transcript.of(self.body, seen, decision.ask.first, decision.ask.span)
        body = own_request(self._dialect.name, model, summarise.INSTRUCTION, said, SUMMARY_CAP)
        return Own("summary", "compaction", provider or self._provider.name, *self._addressed(model, body))

    def _addressed(self, model: str, body: bytes) -> tuple[str, bytes]:
        """(path, body) of a request of our own to that model, in the call's dialect."""
        path = self._call.path.replace(":streamGenerateContent", ":generateContent")
        if self._dialect.name == "gemini_generate":
            path, body = self._dialect.edit(path, body, self._asked, (UseModel(model),))
        return path, body

    def summarised(self, body: bytes | None, pico: int) -> Generator[Effect, Any, None]:
        """The summary has come, for that much; the next call sends it."""
        decision, seen, course, labels = self._decision, self._outline, self._course, self._labels
        text = replay.said(body) if body is not None else ""
        if decision is None or decision.ask is None or seen is None or course is None or not text:
            return
        course = course._replace(state=compact.summarised(seen, course.state, decision.ask, text))
        yield Note(labels.conversation, labels.flow, self._call.ts_us, course, 0, pico)


def _embedded(kept: Sequence[Kept]) -> saving.Saving:
    """Each input at what it cost when it was embedded: its part of that batch's price, by bytes."""
    gross = sum(one.pico for one in kept)
    return saving.Saving("embeddings", gross, 0, gross - gross // 20, gross + gross // 20)
