"""What the page's address answers, to whom, and what happens when the gateway cannot say how it is."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from ds_gateway.config.credential import Credential
from ds_gateway.page import Inside
from ds_gateway.page.app import PageApp
from ds_gateway.page.document import Page, policy
from ds_gateway.page.inside import Asking
from harness.configuration import MINIMAL, mistakes_in
from harness.page_rig import PageRig
from harness.peers import REPOSITORY
from harness.statuses import GATEWAY, mqtt, reading, well

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from pathlib import Path

TOKEN = "a-secret-of-the-page"
PATHS = ("/", "/status.json", "/metrics", "/healthz", "/readyz")


@pytest.fixture(scope="module")
def shared() -> Iterator[PageRig]:
    """One page without a token, for tests that change nothing of it."""
    with PageRig() as rig:
        yield rig


@pytest.fixture
def rig() -> Iterator[PageRig]:
    with PageRig() as own:
        yield own


@pytest.fixture(scope="module")
def guarded() -> Iterator[PageRig]:
    """One page with a token."""
    with PageRig(token=TOKEN) as rig:
        yield rig


def get(rig: PageRig, path: str, **headers: str) -> httpx.Response:
    return httpx.get(rig.url.rstrip("/") + path, headers=headers, trust_env=False, verify=False)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


class TestWhatIsServed:
    def test_the_status_is_the_one_document(self, shared: PageRig) -> None:
        answer = get(shared, "/status.json")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json().keys() == well().keys()
        assert answer.json()["gateway"]["id"] == GATEWAY

    def test_metrics_are_for_a_scraper(self, shared: PageRig) -> None:
        answer = get(shared, "/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert f'ds_gateway_build_info{{config_digest="5f0c21d2a9b4",gateway="{GATEWAY}"' in answer.text
        modern = get(shared, "/metrics", accept="application/openmetrics-text; version=1.0.0")
        assert modern.headers["content-type"].startswith("application/openmetrics-text")
        assert modern.text.endswith("# EOF\n")

    def test_the_page_is_one_file_that_asks_nobody_else(self, shared: PageRig) -> None:
        answer = get(shared, "/")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert not re.search(r"""(src|href|action|url\()=?["']?(https?:)?//""", answer.text)
        assert not re.search(r"\son[a-z]+=", answer.text), "a handler in an attribute would be blocked"

    def test_large_answers_are_compressed_for_who_takes_that(self, shared: PageRig) -> None:
        small = get(shared, "/", **{"accept-encoding": "gzip"})
        plain = get(shared, "/", **{"accept-encoding": "identity"})
        assert small.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert small.content == plain.content
        assert int(small.headers["content-length"]) < len(plain.content) / 2

    def test_head_has_the_headers_alone(self, shared: PageRig) -> None:
        for path in PATHS:
            answer = httpx.head(shared.url.rstrip("/") + path, trust_env=False, verify=False)
            assert (path, answer.status_code, answer.content) == (path, 200, b"")

    def test_nothing_can_be_changed(self, shared: PageRig) -> None:
        for path in PATHS:
            answer = httpx.post(shared.url.rstrip("/") + path, content=b"x", trust_env=False, verify=False)
            assert (path, answer.status_code, answer.headers["allow"]) == (path, 405, "GET, HEAD")

    def test_nothing_else_is_there(self, shared: PageRig) -> None:
        for path in ("/other", "/status.json/", "/../etc/passwd", "/%2e%2e/etc/passwd", "//"):
            answer = get(shared, path)
            assert (path, answer.status_code) == (path, 404)
            assert "/status.json" in answer.text


class TestTheBrowsersRules:
    def test_every_answer_is_for_this_page_alone_and_kept_by_nobody(self, shared: PageRig) -> None:
        for path in (*PATHS, "/other"):
            headers = get(shared, path).headers
            assert headers["cache-control"] == "no-store", path
            assert headers["x-content-type-options"] == "nosniff", path
            assert headers["cross-origin-resource-policy"] == "same-origin", path
            assert "frame-ancestors 'none'" in headers["content-security-policy"], path
            assert "access-control-allow-origin" not in headers, path

    def test_only_this_very_script_and_these_styles_count(self, shared: PageRig) -> None:
        said = get(shared, "/").headers["content-security-policy"]
        assert "unsafe" not in said
        for rule in ("default-src 'none'", "trusted-types 'none'", "require-trusted-types-for 'script'"):
            assert f"{rule};" in f"{said};"
        content = Page.load().content
        for tag in (b"script", b"style"):
            (text,) = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), content, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
            assert f"{tag.decode()}-src 'sha256-{digest}';" in said

    def test_another_script_has_another_hash(self) -> None:
        assert policy(b"<script>1</script>") != policy(b"<script>2</script>")


class TestWithoutAToken:
    def test_names_of_this_machine_are_served(self, shared: PageRig) -> None:
        for host in ("localhost", "127.0.0.1", "127.0.0.1:8437", "[::1]:8437", "LOCALHOST:1"):
            assert (host, get(shared, "/status.json", host=host).status_code) == (host, 200)

    @pytest.mark.parametrize("path", PATHS)
    def test_a_name_that_was_made_to_point_here_is_refused(self, shared: PageRig, path: str) -> None:
        for host in ("rebound.example:8437", "192.168.1.5", "localhost.rebound.example", "", "a b"):
            answer = get(shared, path, host=host)
            assert (host, answer.status_code) == (host, 403)
            assert GATEWAY not in answer.text

    def test_who_is_refused_is_told_the_way_out(self, shared: PageRig) -> None:
        assert "set a token" in get(shared, "/", host="gateway.example").text


class TestWithAToken:
    @pytest.mark.parametrize("path", ["/status.json", "/metrics"])
    def test_it_is_needed(self, guarded: PageRig, path: str) -> None:
        for value in ("", "Bearer wrong", f"Bearer {TOKEN[:-1]}", TOKEN, f"Basic {TOKEN}"):
            given = {"authorization": value} if value else {}
            answer = get(guarded, path, **given)
            assert (given, answer.status_code) == (given, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert GATEWAY not in answer.text

    def test_it_serves_under_every_name(self, guarded: PageRig) -> None:
        for path in PATHS:
            answer = get(guarded, path, host="line-7.example:8437", **bearer(TOKEN))
            assert (path, answer.status_code) == (path, 200)
            assert TOKEN not in answer.text

    def test_the_page_itself_says_nothing_and_needs_none(self, guarded: PageRig) -> None:
        answer = get(guarded, "/")
        assert answer.status_code == 200
        assert answer.content == Page.load().content

    def test_a_probe_needs_none_and_gets_a_word(self) -> None:
        with PageRig(token=TOKEN) as rig:
            rig.stalled, rig.why_not_ready = ["hall-broker"], "starting"
            assert get(rig, "/healthz").text == "stalled\n"
            assert get(rig, "/readyz").text == "not ready\n"
            assert get(rig, "/healthz", **bearer(TOKEN)).text == "stalled: hall-broker\n"
            assert get(rig, "/readyz", **bearer(TOKEN)).text == "not ready: starting\n"

    def test_a_changed_file_counts_at_once(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text("first")
        with PageRig(token=Credential("first", file.read_text)) as rig:
            assert get(rig, "/status.json", **bearer("first")).status_code == 200
            file.write_text("second")
            assert get(rig, "/status.json", **bearer("first")).status_code == 401
            assert get(rig, "/status.json", **bearer("second")).status_code == 200

    @pytest.mark.parametrize("content", ["", "\n", " \t\n"])
    def test_an_empty_one_is_the_one_before_and_opens_nothing(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "token"
        file.write_text(content)
        with PageRig(token=Credential("first", file.read_text)) as rig:
            for value in ("Bearer", "Bearer first"):
                answer = get(rig, "/status.json", authorization=value)
                assert (value, answer.status_code) == (value, 200 if "first" in value else 401)

    @pytest.mark.anyio
    @pytest.mark.parametrize("token", ["", " "])
    async def test_without_one_that_it_ever_had_nobody_is_let_in(self, token: str) -> None:
        said: list[MutableMapping[str, Any]] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            said.append(message)

        async def receive() -> MutableMapping[str, Any]:
            raise AssertionError

        headers = [(b"authorization", b"Bearer")]
        asking = Asking(Inside(well, list, str), asyncio.get_running_loop())
        scope = {"type": "http", "method": "GET", "path": "/status.json", "headers": headers}
        await PageApp(asking, Credential(token, lambda: None))(scope, receive, send)
        assert said[0]["status"] == 401

    def test_one_in_any_letters_is_compared_by_its_bytes(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text("first")
        with PageRig(token=Credential("first", lambda: file.read_text(encoding="utf-8"))) as rig:
            file.write_text("stra\N{LATIN SMALL LETTER SHARP S}e", encoding="utf-8")
            given = {b"authorization": b"Bearer " + file.read_bytes()}
            answer = httpx.get(f"{rig.url}status.json", headers=given, trust_env=False, verify=False)
            assert answer.status_code == 200


class TestHealth:
    def test_all_is_well(self, shared: PageRig) -> None:
        for path in ("/healthz", "/readyz"):
            answer = get(shared, path)
            assert (answer.status_code, answer.text) == (200, "ok\n")

    def test_a_part_that_does_not_turn(self, rig: PageRig) -> None:
        rig.stalled = ["journal", "scale-1"]
        answer = get(rig, "/healthz")
        assert (answer.status_code, answer.text) == (503, "stalled: journal, scale-1\n")
        assert get(rig, "/readyz").status_code == 200

    def test_ready_is_what_the_service_manager_was_told(self, rig: PageRig) -> None:
        rig.why_not_ready = "reloading"
        answer = get(rig, "/readyz")
        assert (answer.status_code, answer.text) == (503, "not ready: reloading\n")
        assert get(rig, "/healthz").status_code == 200

    def test_an_event_loop_that_does_not_turn_is_said(self) -> None:
        with PageRig(answer_seconds=0.05) as rig:
            with rig.stuck():
                for path in ("/healthz", "/readyz", "/status.json", "/metrics"):
                    answer = get(rig, path)
                    assert answer.status_code == 503
                    assert "event loop has not turned" in answer.text
            assert get(rig, "/healthz").status_code == 200


class TestTheDocumentation:
    def test_its_configurations_are_right(self, tmp_path: Path) -> None:
        text = (REPOSITORY / "docs/status-page.md").read_text(encoding="utf-8")
        blocks = re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        assert len(blocks) == 2
        (tmp_path / "status_token").write_text("a")
        for block in blocks:
            assert mistakes_in(tmp_path, MINIMAL + block, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == []

    def test_its_paths_are_all_there_are(self, shared: PageRig) -> None:
        text = (REPOSITORY / "docs/status-page.md").read_text(encoding="utf-8")
        assert set(re.findall(r"^\| `(/\S*)` \|", text, re.MULTILINE)) == set(PATHS)
        assert get(shared, "/other").text == f"there are {', '.join(PATHS)}\n"


class TestWhatFails:
    def test_a_defect_is_told_in_the_log_and_the_next_request_is_served(
        self, rig: PageRig, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken() -> dict[str, Any]:
            raise KeyError("no such part")

        rig.status = broken
        for path in ("/status.json", "/metrics"):
            answer = get(rig, path)
            assert answer.status_code == 500
            assert "no such part" not in answer.text
        assert "page.failed" in caplog.text
        rig.status = well
        assert get(rig, "/status.json").status_code == 200

    def test_a_thousand_devices_are_no_hindrance(self, rig: PageRig) -> None:
        names = [f"hall/{number}" for number in range(1000)]
        rig.status = lambda: well([mqtt(readings=[reading(name) for name in names])])
        assert len(get(rig, "/status.json").json()["devices"]) == 1000
