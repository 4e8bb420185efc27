"""A real browser without a window: Chromium, asked through its DevTools."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
_SECONDS = 60


class Page:
    """A page that is open in the browser."""

    def __init__(self, line: ClientConnection, url: str, width: int, height: int) -> None:
        self._line = line
        self._number = 0
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **metrics)
        self._ask("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """What an expression is in the page."""
        return self._ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression holds."""
        end = time.monotonic() + _SECONDS
        while not self.value(script):
            assert time.monotonic() < end, script
            time.sleep(0.1)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG."""
        picture = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        asked = {"id": self._number, "method": method, "params": parameters}
        self._line.send(json.dumps(asked if self._session is None else {**asked, "sessionId": self._session}))
        while True:
            answer = json.loads(self._line.recv(timeout=_SECONDS))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result


@contextmanager
def opened(url: str, folder: Path, width: int, height: int = 1400) -> Iterator[Page]:
    """``url`` in a browser of its own, whose profile lies in ``folder``."""
    asked = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    asked += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    browser = subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = folder / "DevToolsActivePort"
        end = time.monotonic() + _SECONDS
        while not port.exists() or len(port.read_text().splitlines()) < 2:
            assert time.monotonic() < end, "the browser does not start"
            time.sleep(0.1)
        number, path = port.read_text().splitlines()
        with connect(f"ws://127.0.0.1:{number}{path}", max_size=None, open_timeout=_SECONDS) as line:
            yield Page(line, url, width, height)
    finally:
        browser.terminate()
        browser.wait(_SECONDS)
