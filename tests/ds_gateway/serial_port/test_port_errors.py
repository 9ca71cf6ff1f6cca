from __future__ import annotations

import errno
import grp
import os

import pytest

from ds_gateway.serial_port.port import explain

_NO_SUCH_GROUP = 4_000_000_000


def _owned(group: int, mode: int) -> os.stat_result:
    return os.stat_result((0o020000 | mode, 0, 0, 1, 0, group, 0, 0, 0, 0))


class TestPermission:
    def test_it_names_the_group_to_join(self) -> None:
        dialout = grp.getgrnam("dialout").gr_gid
        reason = explain(
            "/dev/ttyUSB0", PermissionError(errno.EACCES, "denied"), look_at=lambda _path: _owned(dialout, 0o660)
        )
        assert "join the group dialout" in reason
        assert "usermod -aG dialout USER" in reason
        assert "SupplementaryGroups=dialout" in reason

    def test_a_group_without_a_name_is_told_by_number(self) -> None:
        reason = explain(
            "/dev/x", PermissionError(errno.EACCES, "denied"), look_at=lambda _path: _owned(_NO_SUCH_GROUP, 0o660)
        )
        assert f"join the group {_NO_SUCH_GROUP}" in reason

    def test_a_mode_that_lets_no_group_in_is_told(self) -> None:
        reason = explain("/dev/x", PermissionError(errno.EACCES, "denied"), look_at=lambda _path: _owned(0, 0o600))
        assert "its mode 0600 lets no group use it" in reason

    def test_a_path_that_may_not_even_be_looked_at_is_told(self) -> None:
        def refuse(_path: str) -> os.stat_result:
            raise PermissionError(errno.EACCES, "denied")

        reason = explain("/hidden/x", PermissionError(errno.EACCES, "denied"), look_at=refuse)
        assert reason == "permission denied on /hidden/x, even to look at it"


class TestOthers:
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (FileNotFoundError(errno.ENOENT, "no"), "is not there"),
            (OSError(errno.EBUSY, "busy"), "in use by another program"),
            (OSError(errno.ENOTTY, "no tty"), "is not a serial port"),
            (OSError(errno.EIO, "broken"), "cannot be opened: [Errno 5] broken"),
            (ValueError("Invalid baud rate"), "cannot be opened: Invalid baud rate"),
        ],
    )
    def test_each_reason_has_the_path_and_words(self, error: Exception, words: str) -> None:
        reason = explain("/dev/ttyUSB0", error)
        assert reason.startswith("/dev/ttyUSB0 ")
        assert words in reason
