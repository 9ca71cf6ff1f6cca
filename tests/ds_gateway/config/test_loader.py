from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ds_gateway.config import includes, loader, places
from ds_gateway.config.places import DEFAULT_FILE, Machine
from ds_gateway.errors import ConfigError
from harness.configuration import MACHINE, MINIMAL, load_text, mistakes_in

ROOT = Path(__file__).parents[3]


def refusal(path: Path | None) -> str:
    with pytest.raises(ConfigError) as caught:
        loader.load(path, {}, machine=MACHINE)
    return str(caught.value)


class TestTheFile:
    def test_that_is_not_there(self, tmp_path: Path) -> None:
        assert refusal(tmp_path / "x.yaml") == (
            f"{tmp_path}/x.yaml: there is no such file: name one with --config FILE, or copy {includes.sample()} "
            "there and edit it"
        )
        assert includes.sample(tmp_path / "no") == "config/gateway.yaml"
        (tmp_path / "gateway.yaml").touch()
        assert includes.sample(tmp_path / "gateway.yaml") == f"{tmp_path}/gateway.yaml"

    @pytest.mark.skipif(DEFAULT_FILE.exists(), reason="this machine has a gateway")
    def test_by_default_is_in_etc(self) -> None:
        assert refusal(None).startswith("/etc/ds-gateway/gateway.yaml: there is no such file")

    def test_that_is_a_folder(self, tmp_path: Path) -> None:
        assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory; name a file with --config FILE"

    def test_that_is_not_utf_8(self, tmp_path: Path) -> None:
        (tmp_path / "g.yaml").write_bytes(b"a: 1\nb: \xe9\n")
        assert refusal(tmp_path / "g.yaml") == (
            f"{tmp_path}/g.yaml:2: the byte 0xe9 is not UTF-8: save the file as UTF-8"
        )

    def test_that_is_too_large(self, tmp_path: Path) -> None:
        (tmp_path / "g.yaml").write_bytes(b"#" * (includes.MAX_BYTES + 1))
        assert "this is no configuration" in refusal(tmp_path / "g.yaml")

    def test_that_is_a_list(self, tmp_path: Path) -> None:
        assert mistakes_in(tmp_path, "- a\n") == ["1: must be a mapping, as gateway: {id: line-7}"]

    def test_may_begin_with_a_byte_order_mark(self, tmp_path: Path) -> None:
        assert load_text(tmp_path, "\ufeff" + MINIMAL).settings.gateway.id == "line-7"


class TestPlaces:
    WITHOUT = MINIMAL.replace("data_dir: /var/lib/example\n", "")

    @pytest.mark.parametrize(
        ("environ", "is_root", "data_dir"),
        [
            ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "HOME": "/home/op"}, False, "/var/lib/a"),
            ({"HOME": "/root"}, True, "/var/lib/ds-gateway"),
            ({"HOME": "/home/op"}, False, "/home/op/.local/state/ds-gateway"),
        ],
    )
    def test_of_the_data_by_default(
        self,
        environ: dict[str, str],
        is_root: bool,  # noqa: FBT001
        data_dir: str,
        tmp_path: Path,
    ) -> None:
        settings = load_text(tmp_path, self.WITHOUT, environ, Machine("box-1", is_root=is_root)).settings
        assert settings.data_dir == data_dir

    def test_are_relative_to_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").touch()
        text = (
            self.WITHOUT.replace("mqtt://127.0.0.1", "mqtts://127.0.0.1\n    tls: {ca: ca.pem}") + "data_dir: d\n"
        )
        settings = load_text(tmp_path, text).settings
        assert settings.data_dir == f"{tmp_path}/d"
        assert settings.mqtt["hall"].tls.ca == f"{tmp_path}/ca.pem"

    def test_of_the_socket(self, tmp_path: Path) -> None:
        assert load_text(tmp_path, MINIMAL).control_socket == Path("/var/lib/example/control.sock")
        environ = {"RUNTIME_DIRECTORY": "/run/a:/run/b"}
        assert load_text(tmp_path, MINIMAL, environ).control_socket == Path("/run/a/control.sock")


class TestFindingTheSocket:
    def test_needs_no_credentials_and_minds_no_other_mistake(self, tmp_path: Path) -> None:
        file = tmp_path / "g.yaml"
        file.write_text("data_dir: /d\nserver: {token: '${credential:x}'}\nnonsense: 1\n")
        found = loader.find_control_sockets(file, {}, machine=Machine("localhost", is_root=False))
        assert found == ("/d", (Path("/d/control.sock"),))

    def test_minds_the_overrides(self, tmp_path: Path) -> None:
        file = tmp_path / "g.yaml"
        file.write_text("data_dir: /d\n")
        found = loader.find_control_sockets(file, {"DS_GATEWAY__DATA_DIR": "/e"}, machine=MACHINE)
        assert found == ("/e", (Path("/e/control.sock"),))

    @pytest.mark.skipif(DEFAULT_FILE.exists(), reason="this machine has a gateway")
    def test_without_a_file_looks_where_the_service_has_it(self) -> None:
        assert loader.find_control_sockets(None, {"HOME": "/home/op"}, machine=MACHINE) == (
            "/home/op/.local/state/ds-gateway",
            (Path("/run/ds-gateway/control.sock"), Path("/home/op/.local/state/ds-gateway/control.sock")),
        )

    def test_one_of_several_gateways_has_the_folders_that_its_unit_makes(self) -> None:
        unit = (ROOT / "systemd" / "ds-gateway@.service").read_text()
        assert "StateDirectory=ds-gateway-%i\nStateDirectoryMode=0700\nRuntimeDirectory=ds-gateway-%i\n" in unit
        file, root = Path("/etc/ds-gateway/line-7.yaml"), Machine("box-1", is_root=True)
        data_dir = places.default_data_dir({}, root, file)
        assert data_dir == "/var/lib/ds-gateway-line-7"
        sockets = places.control_sockets({}, data_dir, file)
        assert sockets == (Path("/run/ds-gateway-line-7/control.sock"), Path(data_dir) / "control.sock")

    @pytest.mark.parametrize("file", ["/home/op/line-7.yaml", "/etc/ds-gateway/line-7.yaml.new", "line-7.yaml"])
    def test_a_file_that_no_service_runs_has_no_folders_of_a_service(self, file: str) -> None:
        assert places.control_sockets({}, "/d", Path(file)) == (Path("/d/control.sock"),)

    def test_tells_a_wrong_folder(self, tmp_path: Path) -> None:
        file = tmp_path / "g.yaml"
        file.write_text("data_dir: [a]\n")
        with pytest.raises(ConfigError, match="data_dir"):
            loader.find_control_sockets(file, {}, machine=MACHINE)


class TestTheExamples:
    @pytest.mark.parametrize("name", sorted(file.name for file in (ROOT / "config").glob("*.yaml")))
    def test_are_right_once_their_credentials_exist(self, name: str, tmp_path: Path) -> None:
        for credential in ("stream_token", "mqtt_password"):
            (tmp_path / credential).write_text("secret\n")
        text = (ROOT / "config" / name).read_text(encoding="utf-8")
        assert mistakes_in(tmp_path, text, {"CREDENTIALS_DIRECTORY": str(tmp_path), "HOME": "/h"}) == []

    def test_show_the_true_defaults(self, tmp_path: Path) -> None:
        """Every key that is commented out in the sample exists, and has the default that is shown."""
        text = (ROOT / "config/gateway.yaml").read_text(encoding="utf-8")
        _, _, defaults = text.partition("# What is below are the defaults.\n")
        shown = "\n".join(line.removeprefix("# ") for line in defaults.splitlines())
        plain, given = (load_text(tmp_path, each).settings for each in (MINIMAL, MINIMAL + shown))
        assert given.model_dump(exclude={"journal": {"max_bytes"}}) == plain.model_dump(
            exclude={"journal": {"max_bytes"}}
        )


ANY_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["${env:A}", "${"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["gateway", "server", "mqtt", "serial", "devices", "topic", "url", "fields", "tls", "headers"]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def refused_or_loaded(text: str, environ: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for told in mistakes_in(Path(folder), text, environ):
            assert told.isprintable()


class TestWhateverIsWritten:
    """No text makes anything but a valid configuration or a `ConfigError`."""

    @given(text=st.text(st.characters(codec="utf-8")))
    def test_any_text(self, text: str) -> None:
        refused_or_loaded(text, {})

    @given(text=st.text(alphabet="abk01.:-#&*!|>'\"%@`{}[],?~$ \n\t", max_size=60))
    def test_any_yaml_like_text(self, text: str) -> None:
        refused_or_loaded(text, {})

    @given(values=st.dictionaries(st.sampled_from(["gateway", "data_dir", "server", "mqtt", "serial"]), ANY_VALUE))
    def test_any_values(self, values: dict[str, object]) -> None:
        refused_or_loaded(yaml.safe_dump(values, allow_unicode=True), {"HOME": "/h"})

    @given(
        name=st.sampled_from(
            ["", "MQTT", "MQTT__HALL", "MQTT__HALL__DEVICES__0", "SERVER", "GATEWAY__ID", "DATA_DIR"]
        )
        | st.text(max_size=5),
        value=st.text(max_size=12),
    )
    def test_any_override(self, name: str, value: str) -> None:
        refused_or_loaded(MINIMAL, {f"DS_GATEWAY__{name}": value})
