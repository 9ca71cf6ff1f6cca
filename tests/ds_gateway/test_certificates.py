"""When certificates end, from files and from what peers show; and that no bytes make it raise."""

from __future__ import annotations

import contextlib
import os
import shutil
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.certificates import MAX_FILE_BYTES, WARNING_DAYS, Certificates, Place, places, read
from ds_gateway.x509 import Certificate, from_pem, parse
from harness.configuration import load_text

if TYPE_CHECKING:
    from ds_gateway.config.models import Settings

TLS = Path(__file__).parent / "tls"
SERVER = (TLS / "server.pem").read_bytes()
END = datetime(2119, 1, 1, tzinfo=UTC)
"""When most of them end."""


def der(name: str) -> bytes:
    return ssl.PEM_cert_to_DER_cert((TLS / name).read_text())


class TestReading:
    @pytest.mark.parametrize(
        ("name", "subject", "begin", "end"),
        [
            ("server.pem", "CN=127.0.0.1", 2020, 2119),
            ("expired.pem", "CN=127.0.0.1", 2020, 2021),
            ("future.pem", "CN=127.0.0.1", 2100, 2119),
            ("ca.pem", "CN=Test Authority", 2020, 2120),
        ],
    )
    def test_finds_whose_it_is_and_how_long(self, name: str, subject: str, begin: int, end: int) -> None:
        assert from_pem((TLS / name).read_bytes()) == [
            Certificate(subject, datetime(begin, 1, 1, tzinfo=UTC), datetime(end, 1, 1, tzinfo=UTC))
        ]

    def test_agrees_with_the_authorities_of_this_machine(self) -> None:
        # What OpenSSL reads of them, for a hundred kinds of names and times; on most machines there are some.
        context = ssl.create_default_context()
        for mine, theirs in zip(context.get_ca_certs(binary_form=True), context.get_ca_certs(), strict=True):
            end = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(theirs["notAfter"])), UTC)
            assert parse(mine).not_after == end

    def test_finds_all_in_a_file_and_passes_over_the_rest(self) -> None:
        text = b"# ours\n" + SERVER + (TLS / "server.key").read_bytes() + (TLS / "chain.pem").read_bytes()
        assert [each.subject for each in from_pem(text)] == [
            "CN=127.0.0.1",
            "CN=127.0.0.1",
            "CN=Test Intermediate",
        ]

    @pytest.mark.parametrize(
        "text",
        [
            b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----",
            b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
            b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
        ],
    )
    def test_refuses_what_is_none(self, text: bytes) -> None:
        with pytest.raises(ValueError, match="certificate"):
            from_pem(text)

    def test_looks_at_each_byte_once_where_no_end_follows(self) -> None:
        # Looking for the end behind each beginning again would take minutes, and the test's time limit.
        line = b"-----BEGIN CERTIFICATE-----\n"
        assert from_pem(SERVER + line * (MAX_FILE_BYTES // len(line))) == from_pem(SERVER)

    def test_of_a_time_that_is_none_does_not_repeat_it(self) -> None:
        content = der("server.pem")
        at = content.index(b"\x17\x0d2")
        long = content[: at + 1] + b"\x82\x04\x00" + b"9" * 1024 + content[at + 2 + 13 :]
        with pytest.raises(ValueError) as caught:
            parse(_with_lengths(long, 1024 + 2 - 13))
        assert len(str(caught.value)) < 100

    @given(
        cut=st.integers(0, 411), flips=st.lists(st.tuples(st.integers(0, 410), st.integers(0, 255)), max_size=4)
    )
    def test_of_any_bytes_ends_in_a_value_or_a_value_error(self, cut: int, flips: list[tuple[int, int]]) -> None:
        content = bytearray(der("server.pem"))
        for place, value in flips:
            content[place % len(content)] = value
        with contextlib.suppress(ValueError):
            parse(bytes(content[: max(len(content) - cut, 0)]))

    @given(content=st.binary(max_size=200))
    def test_of_noise_is_a_value_error(self, content: bytes) -> None:
        with pytest.raises(ValueError):
            parse(content)


def _with_lengths(content: bytes, more: int) -> bytes:
    """The certificate with the lengths of what is around the first of its times so much greater."""
    changed = bytearray(content)
    at = content.index(b"\x17\x82")
    # The certificate, what is signed of it, and the validity that the time stands in.
    for place in (0, 4, at - 2):
        if changed[place + 1] == 0x82:
            size = int.from_bytes(changed[place + 2 : place + 4], "big") + more
            changed[place + 2 : place + 4] = size.to_bytes(2, "big")
        else:
            size = changed[place + 1] + more
            changed[place + 1 : place + 2] = b"\x82" + size.to_bytes(2, "big")
    return bytes(changed)


def entry(
    path: Path, now: datetime, *, is_synchronised: bool = True, is_authority: bool = False
) -> dict[str, Any]:
    place = Place("server.tls.cert", path=str(path), is_authority=is_authority)
    return read(place).document(now, is_synchronised=is_synchronised)


class TestAnEntry:
    def test_says_whose_it_is_and_when_it_ends(self) -> None:
        assert entry(TLS / "client.pem", END - timedelta(days=400.5)) == {
            "name": "server.tls.cert",
            "path": str(TLS / "client.pem"),
            "subject": "CN=line-7",
            "not_before": "2020-01-01T00:00:00Z",
            "not_after": "2119-01-01T00:00:00Z",
            "days_left": 400,
            "problem": "",
        }

    @pytest.mark.parametrize(
        ("left", "days_left", "problem"),
        [
            (timedelta(days=WARNING_DAYS), 30, ""),
            (timedelta(days=29, hours=23), 29, "expires in 29 days, at 2119-01-01T00:00:00Z: renew it"),
            (timedelta(hours=1), 0, "expires in 0 days, at 2119-01-01T00:00:00Z: renew it"),
            (timedelta(0), 0, "has expired at 2119-01-01T00:00:00Z: renew it"),
            (timedelta(hours=-1), -1, "has expired at 2119-01-01T00:00:00Z: renew it"),
            (timedelta(days=365 * 110), 40150, "is not valid before 2020-01-01T00:00:00Z"),
        ],
    )
    def test_has_a_problem_from_30_days_before_its_end_on(
        self, left: timedelta, days_left: int, problem: str
    ) -> None:
        found = entry(TLS / "client.pem", END - left)
        assert (found["days_left"], found["problem"]) == (days_left, problem)

    def test_is_not_judged_by_a_clock_that_nobody_has_set(self) -> None:
        found = entry(TLS / "client.pem", datetime(1970, 1, 1, tzinfo=UTC), is_synchronised=False)
        assert (found["not_after"], found["days_left"], found["problem"]) == ("2119-01-01T00:00:00Z", None, "")

    def test_of_several_authorities_is_the_one_that_ends_last(self, tmp_path: Path) -> None:
        bundle = tmp_path / "ca.pem"
        bundle.write_bytes((TLS / "expired.pem").read_bytes() + (TLS / "ca.pem").read_bytes())
        now = datetime(2026, 1, 1, tzinfo=UTC)
        assert entry(bundle, now, is_authority=True)["problem"] == ""
        assert "has expired" in entry(bundle, now)["problem"]

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (None, "cannot be read: No such file or directory"),
            (b"", "has no certificate in PEM form"),
            (b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", "cannot be understood: "),
            (SERVER + b"\n" * MAX_FILE_BYTES, "is larger than 1 MiB: no more of it is read"),
        ],
    )
    def test_of_a_bad_file_tells_it(self, tmp_path: Path, content: bytes | None, problem: str) -> None:
        path = tmp_path / "cert.pem"
        if content is not None:
            path.write_bytes(content)
        found = entry(path, END)
        assert found["problem"].startswith(problem)
        assert (found["days_left"], found["not_after"]) == (None, None)

    def test_of_a_file_that_is_as_large_as_may_be_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "cert.pem"
        path.write_bytes(SERVER + b"\n" * (MAX_FILE_BYTES - len(SERVER)))
        assert entry(path, END - timedelta(days=100))["problem"] == ""

    def test_of_what_is_no_file_does_not_wait_for_it(self, tmp_path: Path) -> None:
        path = tmp_path / "cert.pem"
        os.mkfifo(path)
        assert entry(path, END)["problem"] == "cannot be read: it is no file, but a pipe or a device"
        assert entry(tmp_path, END)["problem"] == "cannot be read: Is a directory"


CONFIGURATION = """\
gateway: {{id: line-7}}
data_dir: /d
server: {{url: "https://h/v1", tls: {{ca: {tls}/ca.pem, cert: {tls}/client.pem, key: {tls}/client.key}}}}
mqtt:
  hall: {{url: "mqtts://h", tls: {{ca: {tls}/ca.pem}}, devices: [{{topic: a}}]}}
  yard: {{url: "mqtt://i", devices: [{{topic: a}}]}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_text(tmp_path, CONFIGURATION.format(tls=TLS)).settings


class TestAll:
    def test_files_of_the_configuration_are_known(self, settings: Settings) -> None:
        assert [(each.name, each.is_authority) for each in places(settings)] == [
            ("server.tls.ca", True),
            ("server.tls.cert", False),
            ("mqtt.hall.tls.ca", True),
        ]

    def test_what_a_peer_shows_counts_by_what_ends_first(self, settings: Settings) -> None:
        certificates = Certificates(places(settings))
        certificates.look()
        chain = from_der("chain.pem")
        certificates.shown("server", "https://h/v1", [*chain, der("ca.pem")])
        found = certificates.document(is_synchronised=True, now=datetime(2047, 12, 31, tzinfo=UTC))
        assert [(each["name"], each["days_left"] < WARNING_DAYS) for each in found] == [
            ("server.tls.ca", False),
            ("server.tls.cert", False),
            ("mqtt.hall.tls.ca", False),
            ("server", True),
        ]
        assert found[-1]["url"] == "https://h/v1"
        assert found[-1]["subject"] == "CN=Test Intermediate"

    def test_a_renewed_file_is_read_again(self, tmp_path: Path) -> None:
        path, fresh = tmp_path / "cert.pem", tmp_path / "fresh"
        shutil.copy(TLS / "client-expired.pem", path)
        certificates = Certificates([Place("server.tls.cert", path=str(path))])

        def problem() -> str:
            certificates.look()
            return str(certificates.document(is_synchronised=True)[0]["problem"])

        assert "has expired" in problem()
        shutil.copy(TLS / "client.pem", fresh)
        fresh.replace(path)
        assert problem() == ""
        path.unlink()
        assert problem() == "cannot be read: No such file or directory"

    def test_what_is_wrong_is_logged_once_and_each_day_that_it_ends_sooner(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        certificates = Certificates([Place("mqtt.hall.tls.cert", path=str(TLS / "client.pem"))])
        certificates.look()
        told: list[int] = []
        for hours in range(0, 72, 6):
            caplog.clear()
            now = END - timedelta(days=12) + timedelta(hours=hours)
            certificates.tell(certificates.document(is_synchronised=True, now=now))
            told += [hours] * len(caplog.records)
        assert told == [0, 6, 30, 54]
        assert [record.levelname for record in caplog.records] == []

    def test_what_cannot_be_read_of_a_peer_is_passed_over(self) -> None:
        certificates = Certificates()
        certificates.shown("server", "https://h", [b"nothing that anybody knows"])
        certificates.shown("server", "https://h", [])
        assert certificates.document(is_synchronised=True) == []


def from_der(name: str) -> list[bytes]:
    """Every certificate of a file, in DER."""
    blocks = (TLS / name).read_text().split("-----END CERTIFICATE-----\n")
    return [ssl.PEM_cert_to_DER_cert(block + "-----END CERTIFICATE-----\n") for block in blocks if block.strip()]
