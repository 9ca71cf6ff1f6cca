"""The page in a real Chromium: what it shows, that it lives, and that devices cannot make it do anything."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from harness.browser import Browser
from harness.page_rig import PageRig
from harness.statuses import journal, mqtt, reading, stream, troubled, uplink, well

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.browser import Tab

EVIL = "<img src=x onerror=\"document.title='owned';window.owned=1\">"
PHONE: dict[str, Any] = {"width": 360, "height": 780}
SHOWN = "!document.getElementById('content').hidden"


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    """One tab for all: a new one costs a second."""
    with Browser() as browser, browser.tab() as tab:
        yield tab


@pytest.fixture(scope="module")
def rig() -> Iterator[PageRig]:
    with PageRig() as shared:
        yield shared


@pytest.fixture(autouse=True)
def _nothing_is_asked_any_more(tab: Tab, rig: PageRig) -> Iterator[None]:
    yield
    tab.open("about:blank")
    rig.hang_up()


_numbers = itertools.count(1000)


def show(tab: Tab, rig: PageRig, status: Callable[[], dict[str, Any]], **screen: Any) -> None:
    """Open the page, and wait until it shows this status: by its pid."""
    number = next(_numbers)

    def numbered() -> dict[str, Any]:
        said = status()
        return {**said, "gateway": {**said["gateway"], "pid": number}}

    rig.status = numbered
    tab.open(rig.url, **screen)
    tab.wait(f"{SHOWN} && document.getElementById('about').textContent.includes('pid {number},')")


class TestWhatIsShown:
    def test_a_gateway_that_is_well(self, tab: Tab, rig: PageRig) -> None:
        show(tab, rig, well)
        text = tab.text
        for words in (
            "line-7",
            "all is well",
            "1 of 1",
            "hall-broker",
            "connected",
            "telemetry/line-7/hall-a",
        ):
            assert words in text
        assert "temperature 21.4 Cel, humidity 48 %" in text
        assert "Nothing is known to be missing." in text
        assert tab.run("document.title") == "line-7"
        assert tab.complaints == []
        assert {url.removeprefix(rig.url) for url in tab.requests} <= {"", "status.json"}

    def test_a_gateway_in_trouble_says_what_and_what_to_do(self, tab: Tab, rig: PageRig) -> None:
        show(tab, rig, troubled)
        todo = tab.run("document.getElementById('todo').innerText")
        assert todo.startswith("Stream telemetry/line-7/scales is halted"), "the worst is first"
        for words in (
            "ds-gateway resolve telemetry/line-7/scales",
            "HTTP 503: busy",
            "Source scale-1 is waiting",
            "plug it in",
            "no answer from 2 of 4 devices",
            "ends in 12 days",
            "The clock is not synchronised",
        ):
            assert words in todo
        text = tab.text
        assert "1 thing needs you, 5 warnings" in text
        for words in ("5,415", "shed_newest", "delivered 11, failed 1", "CN=line-7"):
            assert words in text
        assert tab.run("document.title") == "(6) line-7"
        assert tab.complaints == []

    def test_a_server_that_is_away_is_one_trouble(self, tab: Tab, rig: PageRig) -> None:
        why = "the server could not be reached: ConnectError"
        streams = journal(*(stream(number, f"t{number}", in_journal=5) for number in (1, 2, 3)))
        away = uplink(state="waiting", reason=why, last_error="ConnectError")
        show(tab, rig, lambda: well(snapshot=streams, uplinks={1: away, 2: away, 3: away}))
        assert "1 warning" in tab.text
        (told,) = tab.run("[...document.querySelectorAll('#todo li')].map(each => each.innerText)")
        assert told.startswith("3 streams are waiting")
        assert told.count("ConnectError") == 1
        assert "the journal keeps what comes meanwhile" in told

    def test_a_backlog_has_its_end(self, tab: Tab, rig: PageRig) -> None:
        behind = stream(1, "t", in_journal=5_000)
        show(tab, rig, lambda: well(snapshot=journal(behind)))
        assert "caught up in 1.6 min" in tab.text

    @pytest.mark.parametrize("is_dark", [pytest.param(False, marks=pytest.mark.soak), True])
    def test_it_fits_a_phone_in_light_and_dark(self, tab: Tab, rig: PageRig, is_dark: bool) -> None:  # noqa: FBT001
        name = "x" * 200
        long = lambda: well([mqtt(readings=[reading(name, json.dumps({name: name}).encode())])])  # noqa: E731
        for status in (troubled, long):
            show(tab, rig, status, is_dark=is_dark, **PHONE)
            assert tab.run("document.documentElement.scrollWidth") == 360
            wide = "[...document.querySelectorAll('.table')].filter(box => box.scrollWidth > 360).length"
            assert tab.run(wide) == 0, "nothing is to be scrolled sideways"
            ground = tab.run("getComputedStyle(document.body).backgroundColor")
            assert ground == ("rgb(16, 21, 27)" if is_dark else "rgb(244, 246, 248)")

    @pytest.mark.soak
    def test_many_devices_are_found_and_not_all_drawn_at_once(self, tab: Tab, rig: PageRig) -> None:
        names = [f"hall/{number}" for number in range(300)]
        show(tab, rig, lambda: well([mqtt(readings=map(reading, names))]))
        rows = "document.querySelectorAll('#devices tbody tr').length"
        assert tab.run(rows) == 100
        tab.run("document.getElementById('more').click()")
        tab.wait(f"{rows} === 300")
        tab.run("(find => { find.value = 'HALL/29'; find.dispatchEvent(new Event('input')); })($('find'))")
        tab.wait(f"{rows} === 11")  # 29 and 290 to 299


class TestNothingFromDevicesRuns:
    def test_names_readings_and_reasons_are_text(self, tab: Tab, rig: PageRig) -> None:
        def hostile() -> dict[str, Any]:
            data = json.dumps({EVIL: EVIL, "nested": {"a": [EVIL]}}).encode()
            device = reading(EVIL, data, units={EVIL: EVIL}, rejected=1, last_rejection=EVIL)
            said = well(
                [mqtt(EVIL, readings=[device], state="waiting", reason=EVIL)],
                journal(stream(1, EVIL, shedding=EVIL), losses={EVIL: (1, 1)}, set_aside=(EVIL,)),
                downlink={"stream": EVIL, "state": EVIL, "reason": EVIL, "open": 1, "counts": {EVIL: 1}},
            )
            said["certificates"] = [{"name": EVIL, "problem": EVIL, "subject": EVIL, "not_after": EVIL}]
            for name in ("id", "version", "config", "config_digest", "data_dir"):
                said["gateway"][name] = EVIL
            return said

        show(tab, rig, hostile)
        assert EVIL in tab.text
        assert tab.run("document.querySelectorAll('img').length") == 0
        assert tab.run("window.owned") is None
        assert tab.run("document.title").endswith(EVIL)
        assert tab.complaints == []

    def test_a_mistake_in_the_script_could_not_change_that(self, tab: Tab, rig: PageRig) -> None:
        show(tab, rig, well)
        for sink in (
            "document.body.innerHTML = '<b>x</b>'",
            "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
            "document.createElement('script').text = '1'",
        ):
            assert tab.run(f"(() => {{ try {{ {sink}; return 'done'; }} catch (e) {{ return e.name; }} }})()") == (
                "TypeError"
            ), sink

    @pytest.mark.soak
    def test_other_shapes_than_expected_break_nothing(self, tab: Tab, rig: PageRig) -> None:
        def odd() -> dict[str, Any]:
            said = well()
            odd_rows = [
                None,
                5,
                "x",
                {},
                {"name": None, "state": 7, "last_data": [[1]], "units": None, "alarms": "x"},
            ]
            return {
                **said,
                "sources": odd_rows,
                "streams": odd_rows,
                "devices": odd_rows,
                "journal": {},
                "clock": None,
            }

        show(tab, rig, odd)
        assert tab.complaints == []
        assert tab.run("document.getElementById('silence').hidden")


class TestItLives:
    def test_it_shows_what_happens_and_keeps_its_rows(self, tab: Tab, rig: PageRig) -> None:
        show(tab, rig, well)
        tab.run("window.row = document.querySelector('#devices tbody tr')")
        newer = reading("hall-a/t1", b'{"temperature":99.5}')
        rig.status = lambda: well([mqtt(readings=[reading("hall-a/t0"), newer])])
        tab.wait("window.row.innerText.includes('99.5')")
        assert "hall-a/t0" in tab.text
        assert "hall-a/t2" not in tab.text
        assert tab.run("window.row === document.querySelectorAll('#devices tbody tr')[1]")

    def test_a_gateway_that_does_not_answer_any_more(self, tab: Tab) -> None:
        silence = "document.getElementById('silence')"
        with PageRig() as rig:
            show(tab, rig, well)
        tab.wait(f"!{silence}.hidden")
        text = tab.text
        assert "The gateway does not answer. Since" in text
        assert "what is shown is from" in text
        assert "no answer" in text
        assert "all is well" not in text
        assert tab.run("document.title") == "(no answer) line-7"
        assert tab.run("document.body.classList.contains('stale')")
        with PageRig(port=rig.port):
            tab.wait(f"{silence}.hidden && document.title === 'line-7'")
            assert not tab.run("document.body.classList.contains('stale')")

    @pytest.mark.soak
    def test_a_gateway_that_cannot_say_how_it_is(self, tab: Tab, rig: PageRig) -> None:
        show(tab, rig, well)

        def broken() -> dict[str, Any]:
            raise KeyError("no such part")

        rig.status = broken
        tab.wait("!document.getElementById('silence').hidden")
        assert "The gateway cannot say how it is: this failed inside the gateway" in tab.text
        rig.status = well
        tab.wait("document.getElementById('silence').hidden")


class TestTheToken:
    def test_it_is_asked_for_and_kept_for_the_tab_alone(self, tab: Tab) -> None:
        login = "document.getElementById('login')"
        give = "(text => {{ $('token').value = text; $('login').requestSubmit(); }})('{}')"
        with PageRig(token="right-one") as rig:
            tab.open(rig.url, **PHONE)
            tab.wait(f"!{login}.hidden")
            assert "line-7" not in tab.text
            tab.run(give.format("wrong"))
            tab.wait("document.body.innerText.includes('does not accept this token')")
            tab.run(give.format("right-one"))
            tab.wait(SHOWN)
            assert "line-7" in tab.text
            assert "right-one" not in tab.run("document.documentElement.outerHTML")
            tab.run("window.isOld = true; location.reload()")
            tab.wait(f"!window.isOld && {SHOWN}")
            assert tab.run("localStorage.length + document.cookie.length") == 0
            assert not any("right-one" in url for url in tab.requests)
