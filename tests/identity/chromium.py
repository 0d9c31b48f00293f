"""A headless browser: Debian's chromium, by its driver's HTTP interface (W3C WebDriver).

`python chromium.py SESSION ADDRESS` opens an address in it, as $BROWSER is asked to.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Chromium"]

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
_SECONDS = 30
_ARGUMENTS = (
    # As root, which CI is, chromium can't shut itself in; nothing but the tests' own pages is shown.
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=900,700"),
)
_HOSTS = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost, EXCLUDE *.localhost"


class Chromium:
    """One browser with an empty profile; `with` it. Skips the test on a machine without one.

    `hosts`: addresses of hosts besides this machine's own names, which may begin with `*.`.
    """

    def __init__(self, folder: Path, hosts: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        rules = [*(f"MAP {name} {address}" for name, address in (hosts or {}).items()), _HOSTS]
        self._arguments = (*_ARGUMENTS, f"--host-resolver-rules={', '.join(rules)}")
        self._programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
        if None in self._programs:
            pytest.skip("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")

    def __enter__(self) -> Chromium:
        browser, driver = map(str, self._programs)
        log = self._folder / "chromedriver.log"
        self._driver = subprocess.Popen(
            [driver, "--port=0", f"--log-path={log}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._driver.stdout is not None
        said = next(line for line in self._driver.stdout if "started successfully on port" in line)
        options: dict[str, Any] = {"binary": browser}
        options["args"] = [*self._arguments, f"--user-data-dir={self._folder / 'profile'}"]
        options["prefs"] = {"download.default_directory": str(self._folder)}
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        port = said.strip(" .\n").rpartition(" ")[2]
        made = _asked("POST", f"http://127.0.0.1:{port}/session", wanted)
        self._session = f"http://127.0.0.1:{port}/session/{made['sessionId']}"
        return self

    def __exit__(self, *_: object) -> None:
        try:
            _asked("DELETE", self._session)  # it ends chromium
        finally:
            self._driver.terminate()
            self._driver.communicate(timeout=30)

    @property
    def command(self) -> str:
        """For $BROWSER, which is a list with colons: what opens an address here."""
        program = self._folder / "open"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P {__file__} {self._session} "$1"\n')
        program.chmod(0o700)
        return f"{program} %s"

    @property
    def address(self) -> str:
        """What the address bar shows."""
        return str(_asked("GET", f"{self._session}/url"))

    @property
    def title(self) -> str:
        """Of the page."""
        return str(_asked("GET", f"{self._session}/title"))

    @property
    def text(self) -> str:
        """What the page shows, as a person reads it."""
        return str(_asked("GET", f"{self._element('body')}/text"))

    def text_of(self, selector: str) -> str:
        """What an element shows, as soon as it is there."""
        return str(_asked("GET", f"{self._element(selector)}/text"))

    def open(self, address: str) -> None:
        """Go to an address."""
        _asked("POST", f"{self._session}/url", {"url": address})

    def fill(self, selector: str, text: str) -> None:
        """Type into a field, as soon as it is there."""
        _asked("POST", f"{self._element(selector)}/value", {"text": text})

    def press(self, selector: str) -> None:
        """Click on what is found, as soon as it is there, and let the next page come."""
        _asked("POST", f"{self._element(selector)}/click", {})

    def screenshot(self, file: Path) -> None:
        """Keep what the window shows as a PNG."""
        file.write_bytes(base64.b64decode(_asked("GET", f"{self._session}/screenshot")))

    def _element(self, selector: str) -> str:
        end = time.monotonic() + _SECONDS
        while True:
            try:
                wanted = {"using": "css selector", "value": selector}
                found = _asked("POST", f"{self._session}/element", wanted)
                return f"{self._session}/element/{found[_ELEMENT]}"
            except LookupError:
                assert time.monotonic() < end, f"no {selector} on {self.address}:\n{self.text}"
                time.sleep(0.1)


def _asked(method: str, url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=_SECONDS) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        with error:
            said = json.load(error)["value"]
        raise (LookupError if said["error"] == "no such element" else AssertionError)(said["message"]) from error


if __name__ == "__main__":
    _asked("POST", f"{sys.argv[1]}/url", {"url": sys.argv[2]})
