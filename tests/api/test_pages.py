"""The viewer in a real browser: its slider, its pictures, a clicked point, and nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from north import RAINY
from patience import PATIENCE_SECONDS

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser's remote control is not installed")

expect = sync_api.expect
expect.set_options(timeout=1000 * PATIENCE_SECONDS)

CHROMIUM = Path("/usr/bin/chromium")
STATIC = Path(__file__).resolve().parents[2] / "api" / "static"


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}")
    arguments = (
        "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync"
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser: sync_api.Browser, server: str) -> Iterator[sync_api.Page]:
    """The viewer, opened; the test fails on any script error and on any request to elsewhere."""
    context = browser.new_context(base_url=server, viewport={"width": 1280, "height": 900}, locale="en-GB")
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: None if request.url.startswith(server) else wrong.append(request.url))
    page.goto("/")
    yield page
    context.close()
    # A browser reports every 404 as an error; asking whether there is a forecast yet is not one.
    assert [text for text in wrong if "status of 404" not in text] == []


def click_cell(page: sync_api.Page, server: str, cell: tuple[int, int]) -> None:
    """Click the middle of a grid cell on the picture."""
    grid = httpx.get(f"{server}/v1/domains/north").json()["grid"]
    box, picture = grid["map_box"], page.locator("#picture").bounding_box()
    x = box["left"] + box["width"] * (cell[1] + 0.5) / grid["columns"]
    y = box["top"] + box["height"] * (cell[0] + 0.5) / grid["rows"]
    page.mouse.click(picture["x"] + x * picture["width"], picture["y"] + y * picture["height"])


def test_it_opens_on_the_newest_observation_and_tells_the_record(page: sync_api.Page) -> None:
    page.wait_for_selector("#skill table")
    assert page.title() == "Nowcast"
    assert page.locator("#clock").inner_text().split("\n")[:2] == ["12:00 UTC", "observed"]
    status = page.locator("#status").inner_text()
    for told in ("2026-01-01 12:00 UTC", "extrapolation (7)", "late", "Somebody's radars"):
        assert told in status
    assert "observed" in page.locator("#picture").get_attribute("alt")


def test_the_slider_runs_from_observed_to_forecast(page: sync_api.Page) -> None:
    page.wait_for_selector("#skill table")
    slider = page.locator("#time")
    assert (slider.get_attribute("max"), slider.input_value()) == ("7", "3")
    slider.focus()
    page.keyboard.press("End")
    assert page.locator("#clock").inner_text().split("\n")[:2] == ["12:20 UTC", "+20 min"]
    assert page.locator("#picture").get_attribute("src").endswith("map.png?lead=20&theme=light")
    page.keyboard.press("Home")
    assert page.locator("#clock").inner_text().startswith("11:45 UTC")
    expect(page.locator("#picture")).to_have_js_property("naturalWidth", 1000)


def test_play_moves_and_pause_stops(page: sync_api.Page) -> None:
    page.wait_for_selector("#skill table")
    page.get_by_role("button", name="Play").click()
    expect(page.locator("#time")).not_to_have_value("3")  # where it stood
    page.get_by_role("button", name="Pause").click()
    stopped = page.locator("#time").input_value()
    page.wait_for_timeout(800)
    assert page.locator("#time").input_value() == stopped


def test_a_click_tells_the_rain_of_the_very_cell(page: sync_api.Page, server: str) -> None:
    page.wait_for_selector("#skill table")
    expect(page.locator("#picture")).to_have_js_property("naturalWidth", 1000)
    with page.expect_response(re.compile("/point")) as asked:
        click_cell(page, server, RAINY)
    cell = asked.value.json()["cell"]
    assert (cell["row"], cell["column"]) == RAINY
    page.wait_for_selector(".verdict")
    assert page.locator(".verdict").inner_text() == "Rain from 12:10 UTC until 12:20 UTC"
    assert "Peak 10 mm/h at 12:10 UTC, 0.9 mm in all." in page.locator("#point").inner_text()
    marker, picture = page.locator("#marker").bounding_box(), page.locator("#picture").bounding_box()
    assert picture["x"] < marker["x"] < picture["x"] + picture["width"]
    assert page.locator("svg.series .bar").count() == 5


def test_a_place_nobody_looks_at_is_not_called_dry(page: sync_api.Page, server: str) -> None:
    page.wait_for_selector("#skill table")
    expect(page.locator("#picture")).to_have_js_property("naturalWidth", 1000)
    click_cell(page, server, (5, 2))
    page.wait_for_selector(".verdict")
    assert page.locator(".verdict").inner_text() == "Not covered by radar"
    assert page.locator("svg.series .none").count() == 5
    assert "dry" not in page.locator("#point").inner_text().lower()


def test_coordinates_can_be_typed(page: sync_api.Page) -> None:
    page.wait_for_selector("#skill table")
    page.get_by_label("Latitude").fill("60,0")
    page.get_by_label("Longitude").fill("25")
    page.get_by_role("button", name="Show").click()
    page.wait_for_selector(".verdict")
    assert page.locator(".verdict").inner_text() == "Dry for the next 20 minutes"
    page.get_by_label("Latitude").fill("10")
    page.keyboard.press("Enter")
    page.wait_for_selector("#point .warn")
    assert "outside the grid" in page.locator("#point").inner_text()


def test_the_score_table_sets_both_methods_side_by_side(page: sync_api.Page) -> None:
    page.wait_for_selector("#skill table")
    assert page.locator("#skill thead").inner_text().split() == ["Lead", "extrapolation", "persistence", "n"]
    assert page.locator("#skill tbody").inner_text().split() == ["+5", "min", "0.67", "0.33", "2"]
    page.locator("#threshold").select_option("30")
    expect(page.locator("#skill tbody td").nth(1)).to_have_text("\N{EN DASH}")


def test_every_score_of_the_page_can_be_chosen(page: sync_api.Page, server: str) -> None:
    page.wait_for_selector("#skill table")
    answer = httpx.get(f"{server}/v1/domains/north/verification?threshold=20").json()
    offered = [score["label"] for score in answer["scores"] if score["page"]]
    assert page.locator("#score option").all_inner_texts() == offered
    assert {"SEDI", "ETS"} <= set(offered)
    page.get_by_label("Score").select_option("sedi")
    expect(page.locator("#skill caption")).to_contain_text(
        "Symmetric extremal dependence index, 1 is perfect"
    )
    expect(page.locator("#skill tbody td").nth(1)).to_have_text("0.93")
    page.get_by_label("Score").select_option("far")  # the smaller is the better
    expect(page.locator("#skill td.better")).to_have_text(["0.20"])
    page.get_by_label("Score").select_option("mae_dbz")
    expect(page.locator("#skill td.better")).to_have_text(["0.70"])


def test_a_domain_without_data_says_so(page: sync_api.Page) -> None:
    page.wait_for_selector("#skill table")
    page.get_by_label("Domain").select_option("bare")
    page.wait_for_selector("#notice:not([hidden])")
    assert "No frame of this domain has come yet" in page.locator("#notice").inner_text()
    assert page.url.endswith("#domain=bare")
    assert not page.locator("#figure").is_visible()


def test_in_the_dark_the_pictures_are_dark_too(page: sync_api.Page) -> None:
    page.wait_for_selector("#skill table")
    page.emulate_media(color_scheme="dark")
    expect(page.locator("#picture")).to_have_attribute("src", re.compile("theme=dark$"))
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert all(int(part) < 60 for part in re.findall(r"\d+", background)[:3])


def test_on_a_phone_nothing_sticks_out(browser: sync_api.Browser, server: str) -> None:
    page = browser.new_page(base_url=server, viewport={"width": 360, "height": 740})
    for path in ("/", "/docs"):
        page.goto(path)
        page.wait_for_selector("#skill table" if path == "/" else "article")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_the_documentation_answers_a_try(page: sync_api.Page) -> None:
    page.goto("/docs")
    point = page.locator("article", has_text="GET /v1/domains/{domain}/point")
    point.locator("summary").click()
    point.locator("input[name=lat]").fill("60")
    point.locator("input[name=lon]").fill("25")
    point.get_by_role("button", name="Try it").click()
    point.locator("pre").wait_for()
    assert '"outlook": "dry"' in point.locator("pre").inner_text()
    assert page.locator("article").count() == 14


def test_the_pages_load_nothing_from_elsewhere(server: str) -> None:
    for name in ("", "docs"):
        answer = httpx.get(f"{server}/{name}")
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        again = httpx.get(f"{server}/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304
    for path in STATIC.iterdir():
        addresses = re.findall(r"(?:https?:)?//[\w.]+\.\w+", path.read_text(encoding="utf-8"))
        assert set(addresses) <= {"http://www.w3.org"}, path
