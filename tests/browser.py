"""Headless Chromium for tests of pages; a module that imports this is skipped where it is missing."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
_CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BROWSER_TEST = [
    pytest.mark.skipif(_CHROMIUM is None and "CI" not in os.environ, reason="needs chromium"),
    # Playwright's own event loop is closed by the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@contextmanager
def launched() -> Iterator:
    """Start the browser, and close it at the end."""
    assert _CHROMIUM is not None, "needs chromium: run make browser"
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=arguments)
        yield browser
        browser.close()


class Watched(NamedTuple):
    """A page, with its console messages and errors, and the addresses of its requests."""

    page: object
    messages: list[str]
    requests: list[str]

    def requests_elsewhere(self, *own: str) -> list[str]:
        """Return the requests that are neither in the page nor to addresses that begin with `own`."""
        return [url for url in self.requests if not url.startswith(("blob:", "data:", *own))]

    def reset(self, *, width: int = 1280, height: int = 900, color_scheme: str = "light") -> None:
        """Make the page as a new one is, which takes 0.3 s of processor time."""
        self.page.goto("about:blank")
        self.page.unroute_all()
        self.page.mouse.move(0, 0)
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(
            media="null",
            color_scheme=color_scheme,
            reduced_motion="no-preference",
            forced_colors="none",
        )
        self.messages.clear()
        self.requests.clear()


def watched_page(browser) -> Watched:
    """Open a page; a test that finds it open resets it."""
    page = browser.new_page()
    watched = Watched(page, messages=[], requests=[])
    page.on("console", lambda message: watched.messages.append(message.text))
    page.on("pageerror", lambda error: watched.messages.append(str(error)))
    page.on("request", lambda request: watched.requests.append(request.url))
    return watched
