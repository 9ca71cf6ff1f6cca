"""What may be done with a stream's uplink, and what is shown of it: without a server, a journal or a loop."""

from __future__ import annotations

import pytest

from ds_gateway.config.models import ExactlyOnceSettings
from ds_gateway.config.server import ServerSettings
from ds_gateway.uplink import decisions
from durable_streams import (
    BeginRepair,
    Command,
    Halt,
    Policy,
    PostBatch,
    ProducerState,
    Pull,
    Resolve,
    SaveRepair,
    SealedBatch,
    SetAside,
    Stage,
    Stop,
    Wait,
)
from durable_streams._producer import Attempt
from durable_streams._pull import Head, NextBatch

BATCH = SealedBatch(0, 1, b"[1]", 1)
USUAL = Policy(halt_if_used=True, recover=True, fence_on_start=True)
STATES = ["starting", "idle", "sending", "waiting", "repairing", "halted", "skipping", "settling", "parked"]


class TestPolicies:
    def test_the_usual_one_is_what_is_configured(self) -> None:
        server = ServerSettings(url="http://s.test/v1", create=False)
        careful = ExactlyOnceSettings(recover="halt", read_back=False)
        assert decisions.usual(server, careful) == Policy(create=False, read_back=False, halt_if_used=True)
        by_itself = ExactlyOnceSettings(fence_on_start=True)
        assert decisions.usual(ServerSettings(url="http://s.test/v1"), by_itself) == USUAL

    def test_to_claim_is_to_repair(self) -> None:
        policy = decisions.decided(Policy(), claim=True, bisect=False)
        assert policy == Policy(claim=True, recover=True)
        assert decisions.decided(Policy(), claim=False, bisect=True) == Policy(bisect=True)

    def test_nobody_is_fenced_because_time_has_passed(self) -> None:
        assert not decisions.looking_again(USUAL).fence_on_start

    def test_at_a_server_that_is_to_be_left_nothing_begins(self) -> None:
        policy = decisions.settling(USUAL)
        assert (policy.create, policy.settle, policy.recover) == (False, True, True)


class TestWhatAnOperatorMayDo:
    def test_a_decision_is_for_streams_that_stand(self) -> None:
        allowed = [state for state in STATES if decisions.why_not(state, decides=True) is None]
        assert allowed == ["halted", "parked"]

    def test_to_look_again_is_for_those_that_do_nothing_else(self) -> None:
        allowed = [state for state in STATES if decisions.why_not(state, decides=False) is None]
        assert allowed == ["idle", "waiting", "halted", "parked"]
        assert decisions.why_not("skipping", decides=False) == "it is skipping, not halted"


class TestWhatIsShown:
    """With each next command of the producer."""

    @pytest.mark.parametrize(
        ("command", "trouble", "repairing", "expected"),
        [
            (Wait(3), "no route", False, ("waiting", "no route")),
            (Resolve(BATCH, "1"), "", False, ("idle", "")),
            (BeginRepair(4, "it forgot"), "", True, ("repairing", "it forgot")),
            (SaveRepair(None, "9", adopt=False), "", False, ("starting", "")),  # type: ignore[arg-type]
            (PostBatch(Attempt(0, 1), BATCH), "", False, ("sending", "")),
            (Head(), "", False, ("starting", "")),
            (Head(), "", True, ("repairing", "before")),
            (NextBatch(), "", False, ("idle", "")),
            (Head(), "no route", False, ("waiting", "before")),
            (PostBatch(Attempt(0, 1), BATCH), "no route", False, ("waiting", "before")),
            (Head(), "no route", True, ("waiting", "before")),
            (SetAside("refused"), "", False, ("waiting", "before")),
            (Halt(Stop.GONE, "gone"), "gone", False, ("waiting", "before")),
        ],
    )
    def test_by_the_command(
        self, command: Command, trouble: str, expected: tuple[str, str], *, repairing: bool
    ) -> None:
        stored = ProducerState("p", 0, claimed=True, anchor="0", resolved_seq=0, batch=None, repairing=repairing)
        stage = Stage.IDLE if isinstance(command, NextBatch) else Stage.HEAD
        pull = Pull(stage, stored, USUAL, trouble=trouble)
        assert decisions.shown(pull, command, "waiting", "before") == expected

    def test_a_stream_that_ended_is_parked_and_others_are_halted(self) -> None:
        parked = {stop for stop in Stop if decisions.standing(Halt(stop, "")) == "parked"}
        assert parked == {Stop.CLOSED, Stop.GONE}


class TestWords:
    def test_of_a_server_that_is_to_be_left(self) -> None:
        old = "http://old.test/v1"
        assert decisions.why_unsettled(Halt(Stop.SETTLED, "nothing is unresolved"), old) is None
        assert decisions.why_unsettled(Halt(Stop.FENCED, "fenced"), old) == f"{old} does not settle it: fenced"
        assert decisions.why_not_in_time(old, 0.5, "") == f"{old} did not settle it within 0.5 s: no answer yet"
        assert decisions.why_not_in_time(old, 60.0, "no route").endswith("within 60 s: no route")

    def test_of_a_stream_that_is_stranded_name_the_command(self) -> None:
        why = decisions.why_stranded("a b", "http://old.test/v1")
        assert "`ds-gateway resolve 'a b' --retarget`" in why
