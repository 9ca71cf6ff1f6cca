"""What to say next, and what the journal must know first: pure decisions that outlive a connection.

    CONNECT      the mark says "unsettled" before it is sent
    CONNACK      with a session: told to the gate; whatever filters the session lacks are asked for
                 without: told to the gate (R0), and only after *that commit* the filters are asked for,
                 so that nothing of the new session can arrive while ids of the old one are remembered
    SUBACK       told to the gate; after that commit the mark says "settled"
    commit       mark, then the PUBACKs

"Unsettled" at the next CONNECT (also of the next process) means: perhaps a CONNACK got lost that said "no
session". Then all filters are asked for again, because that session has none and would stay silent for ever, and
the gate finds out by the next packet ids which session it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ds_gateway.mqtt.dedupe import GateView
from ds_gateway.mqtt.marks import Mark
from ds_gateway.mqtt.subscription import Plan, plan
from ds_gateway.mqtt.tokens import Opening, SessionStart, Subscribed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ds_gateway.mqtt.events import Connack, Suback
    from ds_gateway.records import Item


@dataclass(frozen=True, slots=True)
class Committed:
    """What the journal's writer reports: everything it took, the commit, and what the gate knows since."""

    items: Sequence[Item]
    commit: int
    view: GateView


class Dialogue:
    """Where this client stands with its broker. The mark file must say ``mark`` before anything is sent."""

    def __init__(self, filters: Sequence[str], qos: int) -> None:
        self._filters = tuple(filters)
        self._qos = qos
        self._was_settled = False
        self._asked = Plan((), ())
        self.generation = 0
        self.opened = False
        self.mark = Mark(session=0, commit=0, settled=False)
        self.view = GateView()

    def opening(self, found: tuple[Mark, bool] | None, journal_commit: int | None, time_ns: int = 0) -> Opening:
        """Begin with what the mark file said; its commit counts as acknowledged only if it is of this boot.

        ``journal_commit``: the last one that the journal had when it was opened; None where nobody knows.
        """
        if found is None:
            return Opening(acked=None, session=0)
        mark, this_boot = found
        self.mark = mark
        beyond = 0 if journal_commit is None else max(mark.commit - journal_commit, 0)
        return Opening(mark.commit if this_boot else None, mark.session, beyond, time_ns if beyond else 0)

    def connecting(self) -> None:
        """CONNECT is about to be sent."""
        self.generation += 1
        self._was_settled = self.mark.settled
        self.mark = replace(self.mark, settled=False)

    def connack(self, event: Connack, time_ns: int = 0) -> tuple[SessionStart, Plan | None]:
        """Return the token for the gate, and what to ask the broker for at once. ``time_ns``: when it came in."""
        doubtful = event.session_present and not self._was_settled
        token = SessionStart(event.session_present, self.mark.commit, self.generation, time_ns, doubtful)
        if not event.session_present:
            return token, None
        known = self.view.subscribed
        wanted = plan(self._filters, self._qos, known)
        if not self._was_settled:
            wanted = Plan(self._filters, wanted.unsubscribe)
        if not wanted:
            self.mark = replace(self.mark, settled=True)
        return token, self._ask(wanted)

    def suback(self, event: Suback) -> Subscribed:
        """Return the token for the gate: the filters that the session now has."""
        asked = self._asked.subscribe
        has = tuple(topic for topic in self._filters if topic in event.granted or topic not in asked)
        return Subscribed(has, self._qos, self.generation)

    def committed(self, report: Committed) -> Plan | None:
        """Learn from a commit. Return what to ask the broker for, now that R0 is durable."""
        self.view = report.view
        self.mark = replace(self.mark, session=report.view.session)
        wanted: Plan | None = None
        for item in report.items:
            match item.token:
                case Opening() as token:
                    acked = token.acked_through(report.view.session, report.commit)
                    self.mark = replace(self.mark, commit=acked)
                    self.opened = True
                case SessionStart(present=False, generation=self.generation):
                    wanted = self._ask(Plan(self._filters, ()))
                case Subscribed(generation=self.generation):
                    self.mark = replace(self.mark, settled=True)
        return wanted

    def acknowledging(self, commit: int | None) -> Mark:
        """Return the mark to write before PUBACKs of this commit are sent; None: of no commit."""
        return self.mark if commit is None else replace(self.mark, commit=commit)

    def _ask(self, wanted: Plan) -> Plan:
        self._asked = wanted
        return wanted
