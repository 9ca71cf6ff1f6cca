"""``resolve`` in the gateway: what is chosen, what is told, and how the old server is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ds_gateway.config.credential import Credential
from ds_gateway.config.server import ServerSettings
from ds_gateway.errors import ControlError
from ds_gateway.resolver import Action, Request, Standing, choices, chosen, not_offered, not_stranded, request_of
from ds_gateway.retarget import old_settings
from ds_gateway.uplink import UplinkSnapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

ARGUMENTS: Mapping[str, Any] = {
    "stream": "s",
    "action": "retarget",
    "old_server_gone": False,
    "seconds": 3,
    "token": None,
    "skip_to": None,
}
OLD, NEW = "http://old.test/v1", "http://new.test/v1"


def standing(name: str, state: str, old_url: str | None = None) -> Standing:
    snapshot = UplinkSnapshot(f"{NEW}/{name}", state, f"why {name}", "", None, 0, 0)
    return Standing(1, name, snapshot, old_url)


STANDINGS = [
    standing("stranded", "halted", OLD),
    standing("fenced", "halted"),
    standing("closed", "parked"),
    standing("moving", "settling"),
    standing("well", "idle"),
]
ALL = Request(None)


class TestRequests:
    def test_a_right_one(self) -> None:
        assert request_of(ARGUMENTS) == Request("s", Action.RETARGET, timeout_seconds=3.0)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"stream": 1},
            {"action": "yes"},
            {"action": True},
            {"skip_to": "end"},
            {"skip_to": 0},
            {"skip_to": -1},
            {"skip_to": True},
            {"skip_to": False},
            {"seconds": True},
            {"old_server_gone": None},
            {"seconds": 0},
            {"seconds": -1},
            {"seconds": 10**9},
            {"seconds": "3"},
            {"token": 3},
        ],
    )
    def test_wrong_ones(self, wrong: Mapping[str, Any]) -> None:
        with pytest.raises(ControlError, match="resolve takes stream, action"):
            request_of({**ARGUMENTS, **wrong})

    def test_a_position(self) -> None:
        assert request_of({**ARGUMENTS, "action": "skip", "skip_to": 1}).skip_to == 1

    def test_an_option_is_called_as_on_the_command_line(self) -> None:
        with pytest.raises(ControlError, match="--skip-to is a decision about one stream"):
            request_of({**ARGUMENTS, "action": "skip", "stream": None})

    def test_nothing_at_all(self) -> None:
        with pytest.raises(ControlError):
            request_of({})


class TestChosen:
    def names(self, request: Request) -> list[str]:
        return [each.name for each in chosen(STANDINGS, request)]

    def test_all_that_stand(self) -> None:
        assert self.names(ALL) == ["stranded", "fenced", "closed", "moving"]

    def test_all_that_can_be_moved(self) -> None:
        assert self.names(replace(ALL, action=Action.RETARGET)) == ["stranded"]

    def test_all_with_a_token_that_several_servers_would_get(self) -> None:
        request = replace(ALL, action=Action.RETARGET, token="theirs")
        assert len(chosen([STANDINGS[0], standing("second", "halted", OLD)], request)) == 2
        several = [*STANDINGS, standing("elsewhere", "halted", "http://older.test")]
        with pytest.raises(
            ControlError,
            match=f"is for one old server, and these streams have 2: {OLD}, http://older.test; name one STREAM",
        ):
            chosen(several, request)
        assert len(chosen(several, replace(request, token=None))) == 2
        assert len(chosen(several, replace(request, stream="elsewhere"))) == 1

    def test_one(self) -> None:
        assert self.names(replace(ALL, stream="well", action=Action.RETARGET)) == ["well"]

    def test_none_of_that_name(self) -> None:
        with pytest.raises(ControlError, match="there is no stream 'x'; there are: stranded, fenced"):
            chosen(STANDINGS, replace(ALL, stream="x"))
        with pytest.raises(ControlError, match="none yet"):
            chosen([], replace(ALL, stream="x"))


class TestTold:
    def test_the_choices_of_a_stranded_stream(self) -> None:
        retarget, gone, back = choices(STANDINGS[0], NEW)
        assert retarget.startswith(f"--retarget: find out at {OLD}")
        assert f"go on at {NEW}" in retarget
        assert gone.startswith("--retarget --old-server-gone: ask nobody")
        assert f"that batch may be at {OLD}, too" in gone
        assert f"not when it has another address now: then {NEW} may have the batch already" in gone
        assert "set server.url back or settle at the old address first" in gone
        assert back.startswith(f"set server.url back to {OLD}")

    def test_the_choices_of_others(self) -> None:
        assert choices(STANDINGS[1], NEW)[0].startswith("--retry: remove the cause first")
        fenced = replace(STANDINGS[1], uplink=replace(STANDINGS[1].uplink, stop="fenced"))
        assert [each.partition(":")[0] for each in choices(fenced, NEW)] == ["--claim", "--retry"]
        page = replace(STANDINGS[1], uplink=replace(STANDINGS[1].uplink, stop="unreadable_page"))
        assert [each.partition(":")[0] for each in choices(page, NEW)] == [
            "--claim",
            "--skip-to POSITION (or `end`)",
            "--retry",
        ]
        assert "step over the pages that cannot be read" in choices(page, NEW)[0]
        damaged = replace(STANDINGS[1], uplink=replace(STANDINGS[1].uplink, stop="damaged"))
        assert choices(damaged, NEW)[0].startswith("--retry: read everything back that is kept here")
        assert choices(STANDINGS[4], NEW) == ["nothing: it is not halted"]

    @pytest.mark.parametrize(
        ("number", "done", "words"),
        [
            (1, False, "it is halted for another reason, which --retarget cannot help: why fenced"),
            (2, False, "it is parked for another reason"),
            (3, False, "it is being moved already"),
            (4, True, f"nothing to do: its records go to {NEW}/well"),
        ],
    )
    def test_what_becomes_of_a_stream_that_no_other_server_holds(
        self, number: int, words: str, *, done: bool
    ) -> None:
        was_done, told = not_stranded(STANDINGS[number])
        assert was_done is done
        assert words in told


class TestNotOffered:
    """A decision that would not help, or would do harm, is refused with the ways there are."""

    FENCED = replace(STANDINGS[1], uplink=replace(STANDINGS[1].uplink, stop="fenced"))

    @pytest.mark.parametrize("action", [Action.BISECT, Action.SKIP])
    def test_the_refusal_says_why_and_what_can_be_done(self, action: Action) -> None:
        assert not_offered(self.FENCED, action, NEW) == (
            f"{action.option} does not help here: it is halted: why fenced. What can be done: --claim; --retry"
        )

    @pytest.mark.parametrize("action", [Action.CLAIM, Action.BISECT, Action.SKIP])
    def test_none_of_them_moves_a_stranded_stream(self, action: Action) -> None:
        assert "What can be done: --retarget; " in str(not_offered(STANDINGS[0], action, NEW))

    @pytest.mark.parametrize("action", [Action.CLAIM, Action.RETRY])
    def test_what_is_offered_is_not_refused(self, action: Action) -> None:
        assert not_offered(self.FENCED, action, NEW) is None

    def test_a_stream_that_goes_on_answers_for_itself(self) -> None:
        assert not_offered(STANDINGS[4], Action.CLAIM, NEW) is None


class TestTheOldServer:
    SERVER = ServerSettings.model_validate(
        {"url": NEW, "token": Credential("ours"), "headers": {"x-site": Credential("hall")}}
    )

    def test_is_asked_with_what_is_configured(self) -> None:
        old = old_settings(self.SERVER, OLD, None)
        assert (old.url, old.base_url) == (OLD, OLD)
        assert old.token == self.SERVER.token
        assert old.headers == self.SERVER.headers

    def test_or_with_a_token_of_its_own(self) -> None:
        token = old_settings(self.SERVER, OLD, "theirs").token
        assert token is not None
        assert token.get_secret_value() == "theirs"

    def test_may_be_the_embedded_one(self) -> None:
        old = old_settings(self.SERVER, "embedded", None)
        assert old.is_embedded
        assert old.base_url == "http://127.0.0.1:4437/v1/stream"
