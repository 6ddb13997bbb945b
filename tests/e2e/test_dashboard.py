"""The dashboard in a real browser, on a mesh of three node processes with scripted engines."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from meshnode.testing.processes import NodeProcess, node_process
from tests.e2e.world import has_model, join, surroundings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
WITHIN_MS = 20_000
GROWN = "() => document.getElementById('answer').textContent.length > 0"
IDLE = "() => !document.getElementById('ask-go').disabled"
STOP_AT_ONCE = """() => new MutationObserver((_, self) => {
    if (!document.getElementById('answer').textContent) return;
    self.disconnect();
    document.getElementById('ask-stop').click();
}).observe(document.getElementById('answer'), {childList: true})"""
TALKATIVE = """
from meshnode.cli.main import main
from meshnode.engine.scripted import ScriptedEngine

ScriptedEngine.__init__.__kwdefaults__["answer_tokens"] = 300  # some seconds of it
main()
"""
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="there is no chromium"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="playwright is not installed"),
]


class Pages:
    """Pages of one browser, and what their consoles said."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self._browser = browser
        self._folder = folder
        self.faults: list[str] = []
        self.elsewhere: list[str] = []

    def open(self, url: str, viewport: dict[str, int], scheme: str = "light") -> Any:
        context = self._browser.new_context(viewport=viewport, color_scheme=scheme)
        page = context.new_page()
        page.set_default_timeout(WITHIN_MS)
        page.on(
            "console",
            lambda said: self.faults.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", lambda one: None if one.url.startswith(url) else self.elsewhere.append(one.url))
        page.goto(url)
        return page

    def keep(self, page: Any, name: str) -> None:
        page.evaluate("() => scrollTo(0, 0)")
        page.screenshot(path=self._folder / f"{name}.png", full_page=True)


@contextmanager
def browsing(folder: Path) -> Iterator[Pages]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield Pages(browser, folder)
        finally:
            browser.close()


async def raised(stack: AsyncExitStack, root: Path) -> list[NodeProcess]:
    """A and B, which have no model, and C, which has; C was let in through B."""
    env = surroundings(MESHNODE_DISCOVER="false")

    async def node(name: str, engine: str) -> NodeProcess:
        program = ("-c", TALKATIVE, "up", "--json")
        arguments = ("--name", name, "--engine", engine)
        return await stack.enter_async_context(node_process(root / name, arguments, program=program, env=env))

    a, b, c = await node("A", "none"), await node("B", "none"), await node("C", "scripted")
    await a.mesh_address()
    await join(b, a, via=a)
    await join(c, a, via=b)
    await a.until(has_model)
    return [a, b, c]


def devices(page: Any, count: int) -> None:
    page.wait_for_function("n => document.querySelectorAll('#topology .device').length === n", arg=count)


async def test_the_dashboard_shows_a_mesh_that_answers_and_shrinks(tmp_path: Path) -> None:
    folder = Path(os.environ.get("MESHNODE_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    with trio.fail_after(120):
        async with AsyncExitStack() as stack:
            a, _, c = await raised(stack, tmp_path)
            await trio.to_thread.run_sync(play, await a.api_url(), folder, c)


def play(url: str, folder: Path, last: NodeProcess) -> None:
    """All that somebody does at the page; in a thread of its own, where the browser's driver lives."""
    with browsing(folder) as pages:
        page = pages.open(url, DESKTOP)
        devices(page, 3)
        assert page.locator("#nodes tbody tr").count() == 3
        page.dispatch_event("#topology .device:last-child circle", "click")
        assert page.inner_text("#picked") == "C: idle"
        ask(page, pages)
        see_why(page, pages)
        invite(page, pages)
        phone = pages.open(url, PHONE, "dark")
        devices(phone, 3)
        assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        pages.keep(phone, "phone")
        trio.from_thread.run_sync(last.kill)
        devices(page, 2)
        pages.keep(page, "after-a-loss")
    assert pages.faults == []
    assert pages.elsewhere == []


def ask(page: Any, pages: Pages) -> None:
    """An answer that streams, and is seen on its way; one that is stopped; and who served."""
    page.fill("#question", "Why is the sea salt?")
    page.press("#question", "Control+Enter")
    page.wait_for_function(GROWN)
    assert page.is_enabled("#ask-stop")  # so it came before the end
    page.wait_for_selector("#request-rows td:has-text('streaming')")
    page.wait_for_selector("#topology .dot", state="attached")
    pages.keep(page, "streaming")
    page.wait_for_function(IDLE)
    assert "served by C (peer" in page.inner_text("#served")
    whole = page.inner_text("#answer")
    page.evaluate(STOP_AT_ONCE)
    page.fill("#question", "And why is the sky blue?")
    page.click("#ask-go")
    page.wait_for_function(GROWN)
    page.wait_for_function(IDLE)
    assert "Stopped." in page.inner_text("#served")
    assert len(page.inner_text("#answer")) < len(whole)
    page.wait_for_selector("#request-rows tbody tr:nth-child(1) td:has-text('cancelled')")
    assert page.locator("#request-rows tbody tr").count() == 2
    assert "sea salt" not in page.inner_text("#request-rows") + page.inner_text("#lines")


def see_why(page: Any, pages: Pages) -> None:
    """The decision behind the first request, by keyboard."""
    page.focus("#request-rows tbody tr:nth-child(2) button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#decision[open] #candidates tbody tr")
    row = page.inner_text("#candidates tbody tr:nth-child(1)")
    assert row.split()[:2] == ["1", "C"]
    assert "order in which they were preferred" in page.inner_text("#decision-said")
    assert "No decision is kept" not in page.inner_text("#decision-said")
    pages.keep(page, "decision")
    page.keyboard.press("Escape")
    page.wait_for_selector("#decision", state="hidden")


def invite(page: Any, pages: Pages) -> None:
    """A ticket, with its code."""
    page.click("#invite")
    page.wait_for_selector("#invitation:not([hidden]) #qr path")
    assert page.input_value("#ticket").startswith("meshnode join mesh1")
    pages.keep(page, "desktop")


async def test_a_node_that_wants_a_key_is_given_it_in_the_page(tmp_path: Path) -> None:
    env = surroundings(MESHNODE_DISCOVER="false", MESHNODE_API_REQUIRE_KEY="true")
    with trio.fail_after(60):
        async with node_process(tmp_path / "home", ("--engine", "scripted"), env=env) as node:
            await node.event("ready")
            made = [await node.call("keys_create", name=one, scopes=[one]) for one in ("chat", "admin")]
            keys = [one["key"] for one in made]
            await trio.to_thread.run_sync(unlock, await node.api_url(), tmp_path, keys)


def unlock(url: str, folder: Path, keys: list[str]) -> None:
    """A key that opens too little is refused, the operator's shows the node, and is still there after a reload."""
    with browsing(folder) as pages:
        page = pages.open(url, PHONE)
        for key, reason in zip(keys, ("only with an API key", "does not open /admin/state"), strict=True):
            page.wait_for_selector(f"#key-form:not([hidden]) :text('{reason}')")
            assert page.locator("#topology .device").count() == 0
            page.fill("#key", key)
            page.press("#key", "Enter")
        devices(page, 1)
        assert page.is_hidden("#key-form")
        page.reload()
        devices(page, 1)
        assert keys[1] not in page.content() + page.url
    refusals = [said for said in pages.faults if "401" in said or "403" in said]
    assert pages.faults == refusals != []  # the browser itself tells of those
