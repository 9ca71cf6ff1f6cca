"""``ds-gateway resolve``: each choice does what it says, with a real server, and the count is right afterwards."""

from __future__ import annotations

import json
import shutil
import sqlite3
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Final

import pytest

from faults.plant import GATEWAY, Device, Plant
from faults.test_retarget import resolve
from harness.audit import telemetry
from harness.gateway_process import stream_of
from harness.stream_server import Front, Reply, StreamServer
from harness.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from harness.processes import Processes
    from harness.stream_server import Asked

DEVICE: Final = Device("a", "1", steady=False)
STREAM: Final = f"telemetry/{GATEWAY}/a"


@pytest.fixture
def server(processes: Processes, tmp_path: Path) -> StreamServer:
    server = StreamServer(processes, tmp_path / "streams")
    server.start()
    return server


@pytest.fixture
def front(server: StreamServer) -> Iterator[Front]:
    with Front(server.base_url) as front:
        yield front


@pytest.fixture
def plant(processes: Processes, tmp_path: Path, front: Front) -> Iterator[Plant]:
    with Plant(processes, tmp_path / "plant", front, [DEVICE]) as plant:
        plant.establish_session()
        plant.publish(DEVICE, 1, 2, 3)
        plant.gateway.wait_delivered(3)
        yield plant


def numbers(plant: Plant) -> list[int]:
    return [value["n"] for value in telemetry(plant.readers[0].read())]


def losses(plant: Plant) -> Sequence[dict[str, Any]]:
    return [record["info"] for record in plant.readers[0].read() if record.get("kind") == "loss"]


def wait_numbers(plant: Plant, *expected: int) -> None:
    wait_until(
        lambda: [value["n"] for value in telemetry(plant.readers[0].try_read())] == list(expected),
        what=f"the stream has {expected}",
    )


class TestRetry:
    @pytest.mark.soak
    def test_a_closed_stream_is_parked_again_and_the_choices_are_told(self, plant: Plant, front: Front) -> None:
        request = urllib.request.Request(
            f"{front.base_url}/{STREAM}", method="POST", headers={"Stream-Closed": "true"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 204
        plant.publish(DEVICE, 4)
        plant.gateway.wait_stream(STREAM, "parked")
        shown = resolve(plant.gateway, STREAM)
        assert shown.returncode == 0
        assert "--skip-to POSITION" in shown.stdout
        assert "--retry: remove the cause first" in shown.stdout
        again = resolve(plant.gateway, STREAM, "--retry")
        assert (again.returncode, again.stdout.count("parked again: ")) == (1, 1)

    @pytest.mark.soak
    def test_a_stream_that_is_well_is_looked_at_and_takes_no_other_decision(self, plant: Plant) -> None:
        done = resolve(plant.gateway, STREAM, "--retry")
        assert (done.returncode, done.stdout) == (
            0,
            f"{STREAM}: it goes on: everything accepted is in the stream\n",
        )
        plant.publish(DEVICE, 4)
        wait_numbers(plant, 1, 2, 3, 4)
        plant.gateway.wait_delivered(4)
        for option in ("--claim", "--bisect", "--skip-to=end"):
            refused = resolve(plant.gateway, STREAM, option)
            assert refused.returncode == 1
            assert f"{STREAM}: it is idle, not halted" in refused.stdout

    @pytest.mark.soak
    def test_a_server_that_was_put_back_is_noticed_although_no_device_sends(
        self, plant: Plant, server: StreamServer, tmp_path: Path
    ) -> None:
        server.stop()
        shutil.copytree(tmp_path / "streams", tmp_path / "copy")
        server.start()
        plant.publish(DEVICE, 4)
        plant.gateway.wait_delivered(4)
        server.stop()
        shutil.rmtree(tmp_path / "streams")
        shutil.copytree(tmp_path / "copy", tmp_path / "streams")
        server.start()
        done = resolve(plant.gateway, STREAM, "--retry")
        assert done.returncode == 0, done.stdout
        wait_numbers(plant, 1, 2, 3, 4)

    @pytest.mark.parametrize("option", ["--claim", "--bisect", "--skip-to=end"])
    def test_what_is_a_decision_about_one_stream_is_not_made_for_all(self, plant: Plant, option: str) -> None:
        done = resolve(plant.gateway, "--all", option)
        assert done.returncode == 2
        assert "name it" in done.stderr


class TestClaim:
    @pytest.mark.soak
    def test_an_image_that_was_put_back_goes_on_after_what_was_written_since(
        self, plant: Plant, tmp_path: Path
    ) -> None:
        """Records 4 and 5 were written by the later state: they stay, once; 6 gets an id of its own."""
        gateway = plant.gateway
        assert gateway.terminate() == 0
        shutil.copytree(gateway.data_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
        gateway.start()
        plant.publish(DEVICE, 4, 5)
        gateway.wait_delivered(5)
        assert gateway.terminate() == 0
        shutil.rmtree(gateway.data_dir)
        shutil.copytree(tmp_path / "copy", gateway.data_dir)
        gateway.start()
        halted = gateway.wait_stream(STREAM, "halted")
        assert "an old copy" in halted["reason"]
        plant.publish(DEVICE, 6)
        gateway.wait_accepted(4)
        shown = resolve(gateway, STREAM)
        assert "--claim: this gateway is the one that goes on" in shown.stdout
        done = resolve(gateway, STREAM, "--claim")
        assert done.returncode == 0, done.stdout
        wait_numbers(plant, 1, 2, 3, 4, 5, 6)
        plant.publish(DEVICE, 7)
        wait_numbers(plant, 1, 2, 3, 4, 5, 6, 7)
        gateway.kill()
        gateway.start()
        plant.publish(DEVICE, 8)
        wait_numbers(plant, 1, 2, 3, 4, 5, 6, 7, 8)
        ids = [record["id"] for record in plant.readers[0].read()]
        assert len(ids) == len(set(ids))

    def test_a_stream_that_was_deleted_is_made_again_with_everything_that_is_kept(
        self, plant: Plant, front: Front
    ) -> None:
        request = urllib.request.Request(f"{front.base_url}/{STREAM}", method="DELETE")
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 204
        # A 404 carries nothing that proves whose it is; this one does, so that nobody waits a minute.
        front.rule = lambda asked: (
            Reply(404, {"stream-error": "no such stream"}) if asked.method in {"POST", "HEAD"} else None
        )
        plant.publish(DEVICE, 4)
        halted = plant.gateway.wait_stream(STREAM, "halted")
        assert "there is no such stream" in halted["reason"]
        front.rule = lambda _asked: None
        done = resolve(plant.gateway, STREAM, "--claim")
        assert done.returncode == 0, done.stdout
        wait_numbers(plant, 1, 2, 3, 4)


@pytest.mark.soak
class TestPolicies:
    def configure(self, plant: Plant, **exactly_once: object) -> None:
        plant.gateway.configure({**json.loads(plant.gateway.config.read_text()), "exactly_once": exactly_once})

    def test_recover_halt_waits_for_an_operator(self, plant: Plant, server: StreamServer, tmp_path: Path) -> None:
        gateway = plant.gateway
        gateway.kill()
        self.configure(plant, recover="halt")
        server.stop()
        with closing(sqlite3.connect(tmp_path / "streams" / "streams.db")) as database, database:
            assert database.execute("DELETE FROM producers").rowcount == 1
        server.start()
        gateway.start()
        halted = gateway.wait_stream(STREAM, "halted")
        assert "the server forgot this producer" in halted["reason"]
        plant.publish(DEVICE, 4)
        gateway.wait_accepted(4)
        done = resolve(gateway, STREAM, "--claim")
        assert done.returncode == 0, done.stdout
        wait_numbers(plant, 1, 2, 3, 4)

    def test_an_image_that_fences_at_every_start_goes_on_by_itself(self, plant: Plant, tmp_path: Path) -> None:
        """As `TestClaim`, without anybody: for containers that begin from the same image each time."""
        gateway = plant.gateway
        self.configure(plant, fence_on_start=True)
        assert gateway.terminate() == 0
        shutil.copytree(gateway.data_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("*.sock"))
        expected = [1, 2, 3]
        for number in (4, 5, 6):
            gateway.start()
            plant.publish(DEVICE, number)
            expected.append(number)
            wait_numbers(plant, *expected)
            gateway.kill()
            shutil.rmtree(gateway.data_dir)
            shutil.copytree(tmp_path / "copy", gateway.data_dir)
        ids = [record["id"] for record in plant.readers[0].read()]
        assert len(ids) == len(set(ids))


class TestBisect:
    POISON: Final = 13

    def rule(self, asked: Asked) -> Reply | None:
        """As a server that refuses one record, whatever else is in the body."""
        if asked.method == "POST" and any(
            each.get("data") == {"n": self.POISON} for each in json.loads(asked.body)
        ):
            return Reply(400, {"stream-error": "refused", "content-type": "text/plain"}, b"we do not like 13")
        return None

    def test_the_refused_record_is_set_aside_and_all_others_arrive(self, plant: Plant, front: Front) -> None:
        front.rule = lambda asked: Reply(503) if asked.method == "POST" else None
        plant.publish(DEVICE, *range(4, 21))
        plant.gateway.wait_accepted(20)
        plant.gateway.kill()
        front.rule = self.rule
        plant.gateway.start()
        halted = plant.gateway.wait_stream(STREAM, "halted")
        assert "we do not like 13" in halted["reason"]
        done = resolve(plant.gateway, STREAM, "--bisect")
        assert done.returncode == 0, done.stdout
        wait_numbers(plant, *(n for n in range(1, 21) if n != self.POISON))
        (loss,) = losses(plant)
        assert (loss["cause"], loss["count"], loss["first_position"], loss["last_position"]) == (
            "quarantined", 1, 13, 13,
        )  # fmt: skip
        assert "we do not like 13" in loss["detail"]
        status = plant.gateway.status()
        assert status is not None
        assert status["journal"]["quarantined"] == 1
        assert status["journal"]["losses"] == {"quarantined": {"entries": 1, "records": 1}}


class TestTooLarge:
    def test_batches_become_as_small_as_the_server_wants_them(self, plant: Plant, front: Front) -> None:
        limit = 2000

        def rule(asked: Asked) -> Reply | None:
            if asked.method == "POST" and len(asked.body) > limit:
                return Reply(413, {"stream-error": "too large"})
            return None

        front.rule = lambda asked: Reply(503) if asked.method == "POST" else None
        plant.publish(DEVICE, *range(4, 61))
        plant.gateway.wait_accepted(60)
        plant.gateway.kill()
        front.rule = rule
        plant.gateway.start()
        wait_numbers(plant, *range(1, 61))
        assert stream_of(plant.gateway.status() or {}, STREAM)["state"] in {"idle", "sending"}
        assert not losses(plant)


class TestSkip:
    def test_what_is_skipped_is_in_a_file_and_the_stream_says_so(self, plant: Plant, front: Front) -> None:
        front.rule = TestBisect().rule
        plant.publish(DEVICE, *range(4, 14))
        halted = plant.gateway.wait_stream(STREAM, "halted")
        assert "we do not like 13" in halted["reason"]
        plant.publish(DEVICE, 14, 15)
        plant.gateway.wait_accepted(15)
        wrong = resolve(plant.gateway, STREAM, "--skip-to", "soon")
        assert (wrong.returncode, "is no position" in wrong.stderr) == (2, True)
        done = resolve(plant.gateway, STREAM, "--skip-to", "14")
        assert done.returncode == 0, done.stdout
        wait_until(lambda: numbers(plant)[-2:] == [14, 15], what="what follows on the skipped is in the stream")
        (loss,) = losses(plant)
        assert (loss["cause"], loss["certain"]) == ("skipped", False)
        assert "records set aside in " in done.stdout
        assert str(files(plant)[0]) in done.stdout
        skipped = [json.loads(line) for path in files(plant) for line in path.read_text().splitlines()]
        here = numbers(plant)
        there = [each["data"]["n"] for each in skipped if "data" in each]
        assert there[-1] == 13
        assert sorted(set(here) | set(there)) == list(range(1, 16))
        assert loss["count"] == len(set(range(1, 16)) - set(here))
        assert loss["last_position"] == 13
        plant.gateway.kill()
        plant.gateway.start()
        plant.publish(DEVICE, 16)
        wait_until(lambda: numbers(plant)[-1] == 16, what="it goes on")

    @pytest.mark.soak
    def test_a_stream_that_stands_again_does_not_hide_what_was_set_aside(self, plant: Plant, front: Front) -> None:
        request = urllib.request.Request(
            f"{front.base_url}/{STREAM}", method="POST", headers={"Stream-Closed": "true"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 204
        plant.publish(DEVICE, 4, 5)
        plant.gateway.wait_stream(STREAM, "parked")
        plant.gateway.wait_accepted(5)
        done = resolve(plant.gateway, STREAM, "--skip-to", "end")
        assert done.returncode == 0, done.stdout
        assert "2 records set aside in " in done.stdout
        assert "; parked again: " in done.stdout
        (path,) = files(plant)
        assert str(path) in done.stdout
        assert [json.loads(line)["data"]["n"] for line in path.read_text().splitlines()] == [4, 5]

    @pytest.mark.soak
    def test_what_is_not_offered_is_refused_with_what_is(self, plant: Plant, front: Front) -> None:
        front.rule = TestBisect().rule
        plant.publish(DEVICE, 13)
        plant.gateway.wait_stream(STREAM, "halted")
        done = resolve(plant.gateway, STREAM, "--claim")
        assert done.returncode == 1
        assert "--claim does not help here: it is halted: " in done.stdout
        assert "What can be done: --bisect; --skip-to POSITION (or `end`); --retry" in done.stdout

    @pytest.mark.soak
    def test_a_file_that_cannot_be_written_skips_nothing(self, plant: Plant, front: Front) -> None:
        front.rule = TestBisect().rule
        plant.publish(DEVICE, 13)
        plant.gateway.wait_stream(STREAM, "halted")
        (plant.gateway.data_dir / "skipped").write_text("in the way")
        done = resolve(plant.gateway, STREAM, "--skip-to", "end")
        assert done.returncode == 1
        assert "cannot be written" in done.stdout
        assert "nothing is skipped" in done.stdout
        assert stream_of(plant.gateway.status() or {}, STREAM)["in_journal"] == 1


def files(plant: Plant) -> Sequence[Path]:
    return sorted((plant.gateway.data_dir / "skipped").iterdir())
