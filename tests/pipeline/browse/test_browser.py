"""The pages in a real browser: filter, page, open, choose a region, ask, go back; nothing hostile runs."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ..predict.tiny_predictor import write_features, write_model, write_scenes
from ..shards.conftest import write_small_dataset
from .chromium import CHROMIUM, chromium, serving
from .conftest import Browse, hostile_dataset

pytest.importorskip("playwright", reason="the browser is driven by Playwright: pip install playwright")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(60_000)
    opened.wrong = []
    opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
    opened.on("dialog", lambda dialog: opened.wrong.append(dialog.message))
    yield opened
    context.close()


def count(page: Any) -> str:
    return str(page.inner_text(".status strong"))


def test_filter_page_open_choose_and_go_back(page: Any, tmp_path: Path, browse: Browse) -> None:
    made = write_small_dataset(tmp_path, rows=130, shard_size=50, failed={})
    with serving(browse(made.directory)) as address:
        page.goto(f"{address}/")
        assert count(page) == "130"
        page.keyboard.press("/")
        page.keyboard.type("photograph")
        page.keyboard.press("Enter")
        page.wait_for_url("**/0/?caption=photograph*")
        assert count(page) == "86"  # a third of the rows has no caption
        filtered = page.url
        page.keyboard.press("n")
        page.wait_for_url("**after=*")
        assert page.locator(".card").count() == 26
        page.go_back()
        page.wait_for_url(filtered)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        second = page.evaluate("document.activeElement.getAttribute('href')")
        assert second == page.locator(".card a").nth(1).get_attribute("href")
        page.keyboard.press("Enter")
        page.wait_for_url("**/sample/**")
        assert "2 of 86" in page.inner_text(".crumbs")
        page.locator("#regions .pick").first.click()
        number = page.locator("#regions tbody > tr").first.get_attribute("data-n")
        assert page.url.endswith(f"#region-{number}")
        assert "lit" in page.locator(f".region[data-n='{number}']").get_attribute("class")
        page.reload()
        assert "lit" in page.locator(f".region[data-n='{number}']").get_attribute("class")
        page.locator("h1").click()
        page.keyboard.press("ArrowRight")
        page.locator(".crumbs", has_text="3 of 86").wait_for()
        page.wait_for_load_state()  # its scripts listen to keys by then
        page.keyboard.press("u")
        page.wait_for_url("**/0/?caption=photograph*")
        page.keyboard.press("?")
        assert page.locator("#help").is_visible()
        page.keyboard.press("Escape")
        assert page.evaluate("[...document.images].every(image => !image.complete || image.naturalWidth > 0)")
    assert page.wrong == []


def test_hostile_texts_do_nothing_and_missing_images_say_why(page: Any, tmp_path: Path, browse: Browse) -> None:
    with serving(browse(hostile_dataset(tmp_path).directory)) as address:
        for path in ("/0/", "/0/statistics", "/0/failures", "/0/failure/6"):
            page.goto(f"{address}{path}")
            assert page.title() != "hacked"
        page.goto(f"{address}/0/")
        page.locator(".why").nth(2).wait_for()
        reasons = " ".join(page.locator(".why").all_inner_texts())
        assert "missing" in reasons
        assert "is not the file that the regions were extracted from" in reasons
        for url in page.locator(".card a").evaluate_all("links => links.map(link => link.href)"):
            page.goto(url)
            assert page.locator("h1").inner_text().startswith("Image ")
            assert page.title() != "hacked"
        assert page.locator("main script, main iframe, main [onerror]").count() == 0
    assert page.wrong == []


def test_failed_images_are_a_filter_with_a_url_a_count_and_keys(page: Any, tmp_path: Path, browse: Browse) -> None:
    failed = {0: "missing_file", 2: "corrupt", 3: "corrupt", 7: "corrupt"}
    with serving(browse(write_small_dataset(tmp_path, failed=failed).directory)) as address:
        page.goto(f"{address}/0/")
        page.locator("summary", has_text="More filters").click()
        page.select_option("select[name=failure]", "corrupt")
        page.keyboard.press("Enter")
        page.click(".filters .primary")
        page.wait_for_url("**/0/?failure=corrupt*")
        filtered = page.url
        assert page.inner_text(".status p").startswith("3 of 4 failed images")
        assert page.locator(".card .why strong").all_inner_texts() == ["corrupt"] * 3
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        page.wait_for_url("**/0/failure/3?failure=corrupt")
        assert "2 of 3" in page.inner_text(".crumbs")
        page.wait_for_load_state()
        page.keyboard.press("ArrowRight")
        page.wait_for_url("**/0/failure/7?failure=corrupt")
        page.wait_for_load_state()
        page.keyboard.press("u")
        page.wait_for_url("**/0/?failure=corrupt")
        assert page.locator(".card").count() == 3
        page.goto(f"{address}/0/statistics")
        page.locator(".bars a", has_text="missing_file").click()
        page.wait_for_url("**/0/?failure=missing_file")
        assert count(page) == "1"
        page.locator(".chips a").click()
        page.wait_for_url("**/0/")
        assert count(page) == "6"
        page.goto(f"{filtered}&object=dog")
        assert "remove the other filters" in page.locator(".problem").inner_text()
        assert page.locator(".chips a").count() == 2
    assert page.wrong == []


def test_ask_and_look_at_the_attention(page: Any, tmp_path: Path, browse: Browse) -> None:
    write_scenes(tmp_path / "scenes")
    write_features(tmp_path / "scenes", tmp_path / "features")
    run = write_model(tmp_path / "run", "vqa")
    with serving(browse(tmp_path / "features", checkpoint=run)) as address:
        page.goto(f"{address}/0/sample/1")
        page.fill("input[name=question]", "what colour is the ring")
        page.click(".ask button")
        page.wait_for_selector(".answers tr")
        asked = page.url
        best = page.locator(".answers th").first.inner_text()
        frame = page.frame_locator("iframe.attention")
        frame.locator(".word", has_text="ring").click()
        frame.locator("#chosen", has_text="ring").wait_for()
        page.goto(f"{address}/0/")
        page.go_back()
        page.wait_for_url(asked)
        assert page.locator(".answers th").first.inner_text() == best
    assert page.wrong == []


AXE = find_spec("axe_playwright_python")
"""The package that brings axe-core, a checker of accessibility (optional: pip install axe-playwright-python)."""
PAGES = (
    "/0/?boxes_min=1", "/0/?caption=zebra", "/0/?object=dgo", "/0/sample/photo.001", "/0/similar/photo.001/0/found",
    "/0/statistics", "/0/failures", "/0/failure/0", "/0/?failure=any", "/beside/", "/", "/0/sample/nobody",
)  # fmt: skip


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_pages_fit_and_can_be_read(browser: Any, width: int, scheme: str, tmp_path: Path, browse: Browse) -> None:
    first, second = (write_small_dataset(tmp_path / name, failed={0: "corrupt"}).directory for name in "ab")
    with serving(browse(first, second)) as address:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
        page = context.new_page()
        for path in PAGES:
            page.goto(f"{address}{path}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert page.evaluate(UNNAMED) == [], path
            if AXE is not None and AXE.origin:
                page.evaluate((Path(AXE.origin).parent / "axe.min.js").read_text())
                assert page.evaluate(VIOLATIONS) == [], path
            for each in ("light", "dark"):
                page.emulate_media(color_scheme=each)
                assert page.evaluate(LOW_CONTRAST) == [], (path, each)
            page.emulate_media(color_scheme=scheme)
        context.close()


def test_similar_regions_follow_the_page_and_a_failed_search_says_why(
    page: Any, tmp_path: Path, browse: Browse
) -> None:
    made = write_small_dataset(tmp_path, failed={})
    site = browse(made.directory)
    with serving(site) as address:
        page.goto(f"{address}/0/similar/photo.001/0")
        page.wait_for_selector("#found .card")
        assert page.locator("#found[aria-busy]").count() == 0
        assert "regions were compared" in page.inner_text("#found")
        assert page.wrong == []
        found, site.similar[0].find = site.similar[0].find, None  # type: ignore[method-assign,assignment]
        page.goto(f"{address}/0/similar/photo.001/0")
        page.locator("#found [role=status]").filter(has_text="No result").wait_for(state="attached")
        site.similar[0].find = found  # type: ignore[method-assign]


def test_a_missing_photograph_of_a_region_is_explained_once(page: Any, tmp_path: Path, browse: Browse) -> None:
    made = write_small_dataset(tmp_path, failed={})
    (tmp_path / "images" / "1.png").unlink()
    with serving(browse(made.directory)) as address:
        page.goto(f"{address}/0/similar/photo.001/0")
        page.wait_for_selector("#found .card")
        page.wait_for_selector(".asked-about .why")
        page.wait_for_load_state("networkidle")
        assert page.locator(".asked-about .why").count() == 1


def test_tab_reaches_each_control_and_shows_where_it_is(page: Any, tmp_path: Path, browse: Browse) -> None:
    made = write_small_dataset(tmp_path, failed={})
    with serving(browse(made.directory)) as address:
        for path in ("/0/?boxes_min=1", "/0/sample/photo.001"):
            page.goto(f"{address}{path}")
            expected = page.evaluate(REACHABLE)
            reached = 0
            for _ in range(expected):
                page.keyboard.press("Tab")
                outline = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
                assert outline >= 2, page.evaluate("document.activeElement.outerHTML.slice(0, 100)")
                reached += page.evaluate("document.activeElement !== document.body")
            assert reached == expected > 10
            assert page.evaluate(MARKED) == expected


REACHABLE = """() => {
  const all = [...document.querySelectorAll('a, button, input:not([type=hidden]), select, summary, [tabindex="0"]')]
    .filter(it => it.checkVisibility());
  window.reached = new Set();
  document.addEventListener('focusin', event => window.reached.add(event.target));
  return all.length;
}"""
"""The number of things that the key Tab must reach; notes which it does."""
MARKED = "window.reached.size"
VIOLATIONS = """async () => (await axe.run()).violations
  .map(it => `${it.id}: ${it.nodes.slice(0, 3).map(node => node.html.slice(0, 100)).join(' ')}`)"""
"""What axe-core finds wrong."""
LOW_CONTRAST = """() => {
  const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = text => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest('svg, option, .out, .skip')) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${element.tagName} ${element.textContent.trim().slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return low;
}"""
"""Texts whose contrast with what is behind them is below 4.5:1 (WCAG 2, success criterion 1.4.3)."""
UNNAMED = """() => [...document.querySelectorAll('a, button, input:not([type=hidden]), select, textarea, img, iframe')]
  .filter(it => it.checkVisibility() && !(it.getAttribute('aria-label') || it.getAttribute('alt') || it.title ||
    it.labels?.length || it.innerText?.trim() || it.querySelector?.('img[alt]')))
  .map(it => it.outerHTML.slice(0, 80))"""
"""What a person can use but a screen reader has no name for."""


@pytest.mark.slow
def test_a_million_samples_are_found_and_paged(page: Any, tmp_path: Path, browse: Browse) -> None:
    """Times are in benchmarks/browse.py; each page has a tenth of the time that the fixture gives."""
    from benchmarks.browse import write_data

    write_data(tmp_path / "million", samples=1_000_000, shard_size=1_000)
    page.set_default_timeout(6_000)
    with serving(browse(tmp_path / "million")) as address:
        page.goto(f"{address}/0/?split=val&boxes_min=30&sort=-score")
        found = int(count(page).replace(",", ""))
        assert 0 < found < 200_000
        cards = page.locator(".card").count()
        page.keyboard.press("n")
        page.wait_for_url("**after=*")
        assert page.locator(".card").count() == cards
        assert int(count(page).replace(",", "")) == found
        page.goto(f"{address}/0/sample/000000000007")
        assert page.locator("tbody tr").count() > 9
    assert page.wrong == []
