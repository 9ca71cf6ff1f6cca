"""A real Chromium without a window, driven over the pipe of its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import signal
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from harness.peers import require_tool

if TYPE_CHECKING:
    from types import TracebackType

_FLAGS: Final = (
    "--headless",
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--in-process-gpu",
    "--disable-software-rasterizer",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    # Without these it asks the world for news; there may be none.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_ANSWER_SECONDS: Final = 60.0
_READ_BYTES: Final = 1 << 16
_LOW_DESCRIPTORS: Final = 10


class RefusedError(AssertionError):
    """Chromium did not do it: as when a page is left for another one while it is asked something."""


class Browser:
    """One Chromium. A context manager."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._received = b""
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        program = require_tool("chromium")
        self._profile = tempfile.TemporaryDirectory(prefix="ds-gateway-chromium-", ignore_cleanup_errors=True)
        theirs_in, self._ours_out = _pipe()
        self._ours_in, theirs_out = _pipe()
        argv = [str(program), *_FLAGS, f"--user-data-dir={self._profile.name}"]
        with Path(self._profile.name, "log").open("wb") as log:
            # DevTools read from descriptor 3 and write to 4.
            self._pid = os.posix_spawn(
                program,
                argv,
                {**os.environ, "HOME": self._profile.name, "DBUS_SESSION_BUS_ADDRESS": "disabled:"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, log.fileno(), 2),
                    (os.POSIX_SPAWN_DUP2, theirs_in, 3),
                    (os.POSIX_SPAWN_DUP2, theirs_out, 4),
                ],
                setsid=True,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._ours_in)
        os.close(self._ours_out)
        self._profile.cleanup()

    def tab(self) -> Tab:
        """A new, empty tab, which shares nothing with the others."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session, context)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        return tab

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """One command, and its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._ours_out, data) :]
        deadline = time.monotonic() + _ANSWER_SECONDS
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") != number:
                self._events.append(answer)
                continue
            if "error" in answer:
                raise RefusedError(f"{method}: {answer['error']['message']}")
            result: dict[str, Any] = answer["result"]
            return result

    def events(self, session: str, name: str) -> list[dict[str, Any]]:
        """What a tab has told so far under this name."""
        return [
            each["params"]
            for each in self._events
            if each.get("sessionId") == session and each.get("method") == name
        ]

    def forget(self, session: str) -> None:
        """Drop what a tab has told so far."""
        self._events = [each for each in self._events if each.get("sessionId") != session]

    def _next(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._ours_in], [], [], max(deadline - time.monotonic(), 0))
            part = os.read(self._ours_in, _READ_BYTES) if ready else b""
            if not part:
                log = Path(self._profile.name, "log").read_text(errors="replace")
                raise AssertionError(f"Chromium did not answer {method}\n{log[-2000:]}")
            self._received += part
        line, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


class Tab:
    """One page. A context manager, which closes it: a page that is open goes on asking."""

    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser = browser
        self._session = session
        self._context = context

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol to this tab."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str, *, width: int = 1280, height: int = 900, is_dark: bool = False) -> None:
        """Go there, on a screen of so many CSS pixels; a narrow one is a phone's. What was told before is over."""
        self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._browser.forget(self._session)
        self.call("Page.navigate", url=url)

    def resize(self, width: int, height: int) -> None:
        """Give the screen another size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=width < 700)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression: str, *, timeout_seconds: float = 30.0) -> None:
        """Wait until the expression is true: the page looks itself, some times a second."""
        deadline = time.monotonic() + timeout_seconds
        while not self._waited(expression, deadline - time.monotonic()):
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"waited {timeout_seconds} s in vain until the page has {expression}; it says:\n{self.text}"
                )

    def _waited(self, expression: str, seconds: float) -> bool:
        script = f"""new Promise((resolve) => {{
            const holds = () => {{ try {{ return Boolean({expression}); }} catch {{ return false; }} }};
            const end = performance.now() + {seconds * 1000};
            const look = () => {{
                if (holds()) resolve(true);
                else if (performance.now() > end) resolve(false);
                else setTimeout(look, 50);
            }};
            look();
        }})"""
        try:
            return bool(self.run(script))
        except RefusedError:
            return False  # of the page that was there before

    @property
    def text(self) -> str:
        """What is to be read on the page."""
        return str(self.run("document.body.innerText"))

    @property
    def complaints(self) -> list[str]:
        """Errors of the script, and what the page's policy has blocked."""
        thrown = self._browser.events(self._session, "Runtime.exceptionThrown")
        logged = self._browser.events(self._session, "Log.entryAdded")
        return [
            *(json.dumps(each["exceptionDetails"]) for each in thrown),
            *(each["entry"]["text"] for each in logged if each["entry"]["level"] in {"error", "warning"}),
        ]

    @property
    def requests(self) -> list[str]:
        """All that was asked for."""
        return [
            each["request"]["url"] for each in self._browser.events(self._session, "Network.requestWillBeSent")
        ]

    def picture(self, *, whole: bool = False) -> bytes:
        """A screenshot, as PNG; ``whole``: what is to be scrolled to, too."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are none of the descriptors that the child is given."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _LOW_DESCRIPTORS) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
