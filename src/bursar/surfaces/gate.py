"""What became of conversations with shortened histories and with whole ones, from the ledger; and the order that stops shortening."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import apsw

from ..domain.incident import KEEP, Order
from ..domain.policy import Compact
from ..rules.gate import Arm, chance, worse
from ..stores import incidents
from ..stores.query import Plan
from ..stores.reader import Reader
from ..stores.schema import transaction
from .conversations import OUTCOME

LOOKS_BACK_US = 28 * 86_400_000_000
BY = "bursar watch"


class Gate(NamedTuple):
    """One flow: conversations in which histories were shortened, and those in which they would have been."""

    flow: str
    shorter: Arm
    whole: Arm

    @property
    def worse(self) -> bool:
        return worse(self.shorter, self.whole)

    @property
    def told(self) -> str:
        a, b = self.shorter, self.whole
        return (
            f"solved with shorter histories {a.solved:,} of {a.n:,} ({a.share:.0%}), with whole ones {b.solved:,} of {b.n:,}"
            f" ({b.share:.0%}); by chance {chance(a, b):.2%}"
        )


def gates(reader: Reader, condition: Plan, resolved: Sequence[str], lifted: Mapping[str, int] | None = None) -> list[Gate]:
    """By flow, where both outcomes and shortened histories are known. `lifted`: flow -> before when nothing counts any more."""
    columns = ("conversation", "flow", "labels", "flags", "saved_by", "operation", "evidence", "ts")
    reader.totals(dict.fromkeys((*columns, *condition.columns)), None, None)
    told = f"map_extract_value(labels, '{OUTCOME}')"
    ask = reader.duck.execute
    if not ask(f"SELECT 1 FROM calls WHERE ({condition.sql}) AND {told} <> '' LIMIT 1", condition.values).fetchall():
        return []
    since = lifted or {}
    rows = ask(
        f"""SELECT flow, shorter, count(*), count(*) FILTER (list_contains($resolved_as::VARCHAR[], outcome)) FROM (
              SELECT conversation, max(flow) AS flow, epoch_us(max(ts)) AS last_us,
                bool_or(contains(saved_by, 'compaction') AND operation <> 'control') AS shorter,
                bool_or(contains(evidence, '"would":{{"compaction"')) AS would,
                arg_max({told}, epoch_us(ts) * 2 + starts_with(flags, 'named')::BIGINT)
                  FILTER ({told} <> '' AND NOT starts_with(flags, 'unnamed')) AS outcome
              FROM calls WHERE ({condition.sql}) AND conversation <> '' GROUP BY conversation)
            WHERE flow <> '' AND outcome IS NOT NULL AND (shorter OR would)
              AND last_us > coalesce(map_extract_value(MAP($lifted_flows::VARCHAR[], $lifted_us::BIGINT[]), flow), 0)
            GROUP BY ALL ORDER BY flow""",
        {**condition.values, "resolved_as": list(resolved), "lifted_flows": [*since], "lifted_us": [*since.values()]},
    ).fetchall()
    arms: dict[str, dict[bool, Arm]] = {}
    for flow, shorter, n, solved in rows:
        arms.setdefault(flow, {})[shorter] = Arm(n, solved)
    return [Gate(flow, its.get(True, Arm(0, 0)), its.get(False, Arm(0, 0))) for flow, its in arms.items()]


def on(compact: Compact) -> bool:
    """Whether any flow's histories are shortened."""
    return compact.mode == "on" or "on" in compact.flow.values()


def shut(connection: apsw.Connection, found: Sequence[Gate], now_us: int) -> list[Gate]:
    """Orders the flows that solve fewer to be sent whole; gives those for which that is new."""
    known = {value for order in incidents.in_force(connection, now_us) if order.kind == KEEP for _, value in order.match}
    new = [gate for gate in found if gate.worse and gate.flow not in known]
    if new:
        with transaction(connection):
            for gate in new:
                incidents.give(connection, Order(0, now_us, BY, KEEP, (("flow", gate.flow),), reason=gate.told))
    return new


def lifts(connection: apsw.Connection) -> dict[str, int]:
    """Flow -> when somebody last let its histories be shortened again."""
    return {dict(match)["flow"]: at for match, at in incidents.lifted(connection, KEEP).items()}
