"""Pages in a real browser: they render without an error, load nothing, answer to a hover and a click, fit a phone.

The browser is the system's chromium, which ``apt-get install chromium`` puts there; without one the tests are skipped.
"""

# ruff: noqa: F811 fixtures of pages are imported
from __future__ import annotations

import json
import os
import re
import shutil
import threading

import pytest

from mpt.pages import serve
from mpt.pages.build import build, write_page
from tests.pages.conftest import every_state, hostile, one, read, runs, sweep  # noqa: F401

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra dev, drives the browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium"),
    pytest.mark.timeout(600),
]
PLOT = ".chart[data-drawn] .plot"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(browser):
    """``look(path or url)`` opens a page; an error, or a request but the page's own, fails the test."""
    opened, wrong = [], []

    def open_page(where, *, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page = context.new_page()
        own = where if str(where).startswith("http") else where.resolve().as_uri()
        allowed = own.partition("#")[0]
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request", lambda request: wrong.append(request.url) if request.url.partition("#")[0] != allowed else None
        )
        page.on("dialog", lambda dialog: (wrong.append("a script of a name ran"), dialog.dismiss()))
        page.goto(own, wait_until="load")
        page.wait_for_selector("html[data-ready]", timeout=60_000)
        opened.append(context)
        return page

    yield open_page
    for context in opened:
        context.close()
    assert wrong == []


def wait_for_charts(page):
    page.wait_for_selector(PLOT, timeout=60_000)
    page.wait_for_timeout(500)


def hover_over_points(page, plot):
    """Move over the plot, from its upper left corner, until a tooltip appears; its text."""
    box, tooltip = plot.bounding_box(), page.locator(".bk-tooltip-content")  # in a shadow tree
    for y in range(4, int(box["height"]), 5):
        for x in range(45, int(box["width"]), 7):
            page.mouse.move(box["x"] + x, box["y"] + y)
            if tooltip.count() and tooltip.first.is_visible():
                return tooltip.first.inner_text()
    return ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_run_and_a_sweep_render_and_fit_the_screen(look, runs, one, width, scheme):
    for folder in (one, runs):
        page = look(write_page(folder), width=width, scheme=scheme)
        wait_for_charts(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("canvas").count() > 0
        keep(page, f"{'run' if folder == one else 'sweep'}-{width}-{scheme}")


def keep(page, name):
    """A picture of the whole page, for somebody to look at, in the folder that MPT_SCREENSHOTS names."""
    if folder := os.environ.get("MPT_SCREENSHOTS"):
        height = page.evaluate("document.documentElement.scrollHeight")
        page.set_viewport_size({"width": page.viewport_size["width"], "height": min(6000, height)})
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_charts_out_of_view_are_drawn_too_so_that_a_printed_page_has_them(look, one):
    page = look(write_page(one))
    page.wait_for_function("!document.querySelector('[data-chart]:not([data-drawn])')", timeout=60_000)
    assert page.evaluate("scrollY") == 0


def test_a_hover_shows_the_numbers_of_a_point(look, one):
    page = look(write_page(one))
    wait_for_charts(page)
    text = hover_over_points(page, page.locator(PLOT).first)
    assert "training images" in text
    assert re.search(r"epoch\W+[123]", text)


def test_a_hover_over_a_picture_shows_its_cell(look, one):
    page = look(write_page(one))
    canvas = page.locator(".picture.kernels canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    assert re.search(r"filter 1, channel 1, row 1, column 1: ", page.locator(".picture.kernels output").inner_text())


def test_a_click_on_a_name_chooses_its_line(look, one):
    page = look(write_page(one))
    wait_for_charts(page)
    keys = page.locator(".chart:has(figcaption:text-is('Accuracy')) .keys button")
    assert [key.get_attribute("aria-pressed") for key in keys.all()] == ["true", "true"]
    keys.nth(1).click()
    assert [key.get_attribute("aria-pressed") for key in keys.all()] == ["false", "true"]
    keys.nth(1).click()
    assert [key.get_attribute("aria-pressed") for key in keys.all()] == ["true", "true"]


def test_a_click_on_a_run_opens_its_section(look, runs):
    page = look(write_page(runs))
    page.locator("table.runs a").nth(1).click()
    section = page.locator("#run-2")
    assert section.get_attribute("open") is not None
    assert section.locator("dl.facts").count() == 1
    assert page.locator("#run-1 dl.facts").count() == 0
    page.wait_for_selector(f"#run-2 {PLOT}", timeout=60_000)


def test_an_address_with_a_run_opens_it(look, runs):
    path = write_page(runs)
    page = look(path)
    page.goto(f"{path.resolve().as_uri()}#run-2")
    page.wait_for_selector("#run-2 dl.facts")


def test_runs_in_every_state_and_an_empty_folder_render(look, every_state, tmp_path):
    page = look(write_page(every_state))
    for section in page.locator("details.run").all():
        section.locator("summary").first.click()
    assert "no more memory" in page.locator("pre.error").inner_text()
    (tmp_path / "empty").mkdir()
    assert "There is no run yet" in look(write_page(tmp_path / "empty")).locator("main").inner_text()


def test_foreign_text_stays_text(look, hostile):
    page = look(write_page(hostile))
    for section in page.locator("details.run").all():
        section.locator("summary").first.click()
    wait_for_charts(page)
    assert page.locator("main script, main img").count() == 0
    assert page.get_by_text("<script>alert").count() > 0


def test_a_watched_page_follows_its_run(look, runs, one, monkeypatch):
    monkeypatch.setattr(serve, "LEAST", 0.0)
    monkeypatch.setattr(serve, "SHARE", 0)
    watched = serve.Watched(runs, lambda: build(runs, watched=True))
    with serve.open_server(watched) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            page = look(f"http://127.0.0.1:{server.server_address[1]}/")
            page.locator("#run-1 summary").first.click()
            result = json.loads((one / "result.json").read_text())
            (one / "result.json").write_text(
                json.dumps({"status": "failed", "error": "stopped", "config": result["config"]})
            )
            page.wait_for_selector(".counts .state.failed", timeout=60_000)
            page.wait_for_selector("#run-1[open] pre.error", timeout=60_000)  # what was open is open again
        finally:
            server.shutdown()
            thread.join()
