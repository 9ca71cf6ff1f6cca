from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ds_gateway.config.references import hide
from harness.configuration import MINIMAL, load_text, mistakes_in

if TYPE_CHECKING:
    from pathlib import Path

    from ds_gateway.config.credential import Credential

SECRET = "correct-horse-battery"


def with_token(reference: str) -> str:
    return MINIMAL.replace('v1/stream"}', f'v1/stream", token: "{reference}"}}')


def token_of(folder: Path, reference: str, environ: dict[str, str] | None = None) -> Credential:
    token = load_text(folder, with_token(reference), environ).settings.server.token
    assert token is not None
    return token


@pytest.fixture
def credentials(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "stream_token").write_text(SECRET + "\n")
    return {"CREDENTIALS_DIRECTORY": str(folder)}


class TestAFileThatChanges:
    @pytest.mark.parametrize("content", ["", "\n", "  \r\n"])
    def test_and_is_empty_is_as_one_that_cannot_be_read(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "token.txt"
        file.write_text(SECRET)
        token = token_of(tmp_path, "${file:token.txt}")
        file.write_text(content)
        assert token.get() == SECRET
        file.unlink()
        assert token.get() == SECRET
        file.write_text("another\n")
        assert token.get() == "another"


class TestAReference:
    def test_to_a_credential(self, tmp_path: Path, credentials: dict[str, str]) -> None:
        assert token_of(tmp_path, "${credential:stream_token}", credentials).get() == SECRET

    def test_to_a_file_relative_to_the_configuration(self, tmp_path: Path) -> None:
        (tmp_path / "token.txt").write_text(SECRET + "\r\n")
        assert token_of(tmp_path, "${file:token.txt}").get() == SECRET
        assert token_of(tmp_path, f"${{file:{tmp_path}/token.txt}}").get() == SECRET

    def test_to_a_variable(self, tmp_path: Path) -> None:
        assert token_of(tmp_path, "${env:TOKEN}", {"TOKEN": SECRET}).get() == SECRET

    @pytest.mark.parametrize("content", [" secret", "secret ", "secret \n"])
    def test_to_a_token_with_blanks_around_it(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "token.txt").write_text(content)
        [told] = mistakes_in(tmp_path, with_token("${file:token.txt}"))
        assert "server.token: a header's value has no blanks around it: remove them here, or in its file" in told
        assert "secret" not in told.replace("token.txt", "")

    def test_inside_a_text(self, tmp_path: Path) -> None:
        environ = {"HALL": "h7", "N": "3"}
        settings = load_text(
            tmp_path, MINIMAL.replace("id: line-7", 'id: "${env:HALL}-${env:N}"'), environ
        ).settings
        assert settings.gateway.id == "h7-3"

    def test_is_escaped_with_a_second_dollar(self, tmp_path: Path) -> None:
        assert token_of(tmp_path, "$${env:TOKEN} $$ ${env:X}", {"X": "x"}).get() == "${env:TOKEN} $$ x"

    def test_is_not_followed_twice(self, tmp_path: Path) -> None:
        assert token_of(tmp_path, "${env:A}", {"A": "${env:B}", "B": "b"}).get() == "${env:B}"

    @pytest.mark.parametrize(
        ("reference", "told"),
        [
            (
                "${credential:stream_token}",
                (
                    "the credential stream_token is looked for in $CREDENTIALS_DIRECTORY, which is not "
                    "set: start the "
                    "gateway by systemd with LoadCredential=stream_token:FILE, or set "
                    "CREDENTIALS_DIRECTORY to the "
                    "folder with the credentials"
                ),
            ),
            (
                "${env:NOPE}",
                (
                    "the environment variable NOPE is not set: set it where the gateway is started (systemd: "
                    "EnvironmentFile=), or keep a secret in a file, as ${credential:NAME}"
                ),
            ),
            (
                "${file:/nowhere/token}",
                "the file /nowhere/token of ${file:/nowhere/token} cannot be read: No such file or directory",
            ),
            (
                "${secret:x}",
                (
                    "${secret:x} is no reference: there are ${credential:NAME}, ${file:PATH} and "
                    "${env:NAME}; write "
                    "$${ for the text ${"
                ),
            ),
            (
                "${TOKEN}",
                (
                    "${TOKEN} is no reference: there are ${credential:NAME}, ${file:PATH} and "
                    "${env:NAME}; write $${ "
                    "for the text ${"
                ),
            ),
            ("${env:X", "${ without }; write $${ for the text ${"),
            ("${env:}", "a reference needs a name, as in ${credential:stream_token}"),
        ],
    )
    def test_that_leads_nowhere_says_what_was_looked_for_and_where(
        self, reference: str, told: str, tmp_path: Path
    ) -> None:
        assert mistakes_in(tmp_path, with_token(reference)) == [f"3: server.token: {told}"]

    def test_to_a_credential_that_is_not_there(self, tmp_path: Path, credentials: dict[str, str]) -> None:
        folder = credentials["CREDENTIALS_DIRECTORY"]
        assert mistakes_in(tmp_path, with_token("${credential:other}"), credentials) == [
            (
                f"3: server.token: the credential other, file {folder}/other, cannot be read: No such file or "
                "directory"
            )
        ]

    def test_to_a_credential_outside_of_its_folder(self, tmp_path: Path, credentials: dict[str, str]) -> None:
        assert mistakes_in(tmp_path, with_token("${credential:../x}"), credentials) == [
            "3: server.token: the credential's name '../x' must be a file name without folders"
        ]

    @pytest.mark.parametrize(
        ("content", "told"),
        [(b"\n", "is empty"), (b"\xff", "is not UTF-8 text"), (b"x" * 70_000, "has more than 65536 bytes")],
    )
    def test_to_a_file_that_is_no_secret(self, content: bytes, told: str, tmp_path: Path) -> None:
        (tmp_path / "token").write_bytes(content)
        [problem] = mistakes_in(tmp_path, with_token("${file:token}"))
        assert problem.startswith("3: server.token: ")
        assert told in problem

    def test_to_a_pipe_does_not_wait_for_who_writes_to_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "token")
        [problem] = mistakes_in(tmp_path, with_token("${file:token}"))
        assert problem.endswith("cannot be read: it is no file, but a pipe or a device")


class TestASecret:
    def test_is_read_again_at_every_use(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("first\n")
        token = token_of(tmp_path, "Key ${file:token}")
        (tmp_path / "token").write_text("second\n")
        assert token.get() == "Key second"
        assert token.get_secret_value() == "Key second"

    def test_keeps_its_last_value_while_its_file_is_away(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("first\n")
        token = token_of(tmp_path, "${file:token}")
        (tmp_path / "token").unlink()
        assert token.get() == "first"
        (tmp_path / "token").write_text("second\n")
        assert token.get() == "second"

    def test_written_in_the_file_is_one_too(self, tmp_path: Path) -> None:
        token = token_of(tmp_path, SECRET)
        assert token.get() == SECRET
        assert SECRET not in repr(token) + str(token)

    @pytest.mark.parametrize("reference", ["${credential:stream_token}", SECRET])
    def test_is_in_no_representation(self, reference: str, tmp_path: Path, credentials: dict[str, str]) -> None:
        loaded = load_text(tmp_path, with_token(reference), credentials)
        shown = f"{loaded!r} {loaded} {loaded.settings!r} {loaded.settings.model_dump()} "
        shown += loaded.settings.model_dump_json() + loaded.digest
        assert SECRET not in shown

    @pytest.mark.parametrize(
        "text",
        [
            MINIMAL.replace("id: line-7", 'id: "${credential:stream_token} x"'),
            MINIMAL.replace("mqtt://127.0.0.1", "mqtt://${credential:stream_token}..x"),
            MINIMAL.replace("sensors/{hall}/{sensor}", "${credential:stream_token}/#/x"),
            MINIMAL.replace("  hall:", "  hall:\n    qos: ${credential:stream_token}"),
            MINIMAL
            + "serial: {a: {port: '${credential:stream_token}'}, b: {port: '${credential:stream_token}'}}\n",
            MINIMAL + "status: {listen: '${credential:stream_token}:80'}\n",
            with_token("${credential:stream_token}\\n"),
            with_token("ü" + SECRET),
            MINIMAL.replace('v1/stream"}', f'v1/stream", headers: "{SECRET}"}}'),
            MINIMAL.replace('v1/stream"}', f'v1/stream", headers: {{X: ["{SECRET}"]}}}}'),
            MINIMAL.replace('v1/stream"}', f'v1/stream", proxy: "{SECRET}"}}'),
            MINIMAL.replace("4437/v1/stream", f"4437/v1/stream?token={SECRET}"),
            MINIMAL.replace("//127.0.0.1:4437", f"//me:{SECRET}@127.0.0.1:4437"),
            MINIMAL.replace("server:", f"server: {{tokn: {SECRET}}}\nservr:"),
        ],
    )
    def test_is_in_no_message(self, text: str, tmp_path: Path, credentials: dict[str, str]) -> None:
        told = mistakes_in(tmp_path, text, credentials)
        assert told
        assert SECRET not in str(told)

    def test_that_is_a_number_wants_quotes_and_is_not_shown(self, tmp_path: Path) -> None:
        text = MINIMAL.replace("    devices:", "    password: 4711\n    devices:")
        assert mistakes_in(tmp_path, text) == ["7: mqtt.hall.password: must be text; put it in quotes"]


class TestHiding:
    """What stands in a message for the secret."""

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("unplugged, or it has another name", "unplugged, or it has another name"),
            ("others, other1 and bother", "others, other1 and bother"),
            ("other", "$"),
            ("token=other;other/x_other other.", "token=$;$/x_$ $."),
            (r'{"said": "a\nother\tother"}', r'{"said": "a\n$\t$"}'),
        ],
    )
    def test_a_short_one_is_hidden_where_it_stands_alone(self, text: str, told: str) -> None:
        assert hide(text, "other", "$") == told

    @pytest.mark.parametrize("secret", ["-ab-", "a.*b", "\\d+x", "äöüß"])
    def test_one_of_other_characters_is_taken_as_it_is(self, secret: str) -> None:
        assert hide(f"x {secret} y", secret, r"\1") == r"x \1 y"

    def test_a_long_one_is_hidden_everywhere(self) -> None:
        assert hide(f"x{SECRET}y", SECRET, "$") == "x$y"

    def test_one_of_three_characters_says_too_little_to_be_looked_for(self) -> None:
        assert hide("mqtt at key 123", "123", "$") == "mqtt at key 123"


class TestTheDigest:
    def test_changes_with_the_configuration(self, tmp_path: Path) -> None:
        digest = load_text(tmp_path, MINIMAL).digest
        assert load_text(tmp_path, MINIMAL + "# a comment\n").digest == digest
        assert load_text(tmp_path, MINIMAL + "log: {level: debug}\n").digest != digest
        assert load_text(tmp_path, MINIMAL, {"DS_GATEWAY__LOG__LEVEL": "debug"}).digest != digest

    def test_says_nothing_about_secrets(self, tmp_path: Path) -> None:
        assert load_text(tmp_path, with_token("one")).digest == load_text(tmp_path, with_token("two")).digest
