"""The report in headless Chromium, which opens it from a file."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import BROWSER_TEST, Watched, launched, watched_page
from conftest import small_config, train_all

from charlm.api import load, load_any
from charlm.tasks.attention import Attention
from charlm.views.measuring import measure
from charlm.views.options import ReportOptions
from charlm.views.report import Report, make_report

pytestmark = BROWSER_TEST
HOSTILE = (
    '<script>window.harmed=1</script><img src=x onerror="window.harmed=1">\u202e"\'&amp;</style>'
)
OPTIONS = ReportOptions(
    text=HOSTILE, passage_tokens=120, memory_tokens=90, probe_tokens=400, context_targets=20
)


@pytest.fixture(scope="module")
def report(text_file, tmp_path_factory) -> Report:
    """A report on two runs whose text and whose corpus name are hostile."""
    folder = tmp_path_factory.mktemp("browser")
    corpus = folder / ("<b>'" + "x" * 200 + ".txt")
    text = text_file.read_text(encoding="utf-8")[:400]
    corpus.write_text(f"{HOSTILE}\n{text}\n" * 5, encoding="utf-8")
    for kind in ("lstm", "gru"):
        overrides = (f"model.cell={kind}", "training.steps=6", "training.evaluations=3")
        train_all(small_config(corpus, *overrides), folder / kind)
    models = [load(folder / kind).trained for kind in ("lstm", "gru")]
    return make_report(measure(models, OPTIONS))


@pytest.fixture(scope="module")
def task_file(tmp_path_factory) -> Path:
    """The report on a run of each task, whose sources, targets and labels are hostile."""
    folder = tmp_path_factory.mktemp("tasks")
    sources = [f"{HOSTILE} {number}" for number in range(30)]
    targets = {
        "classify": [f"<b>{HOSTILE}{number % 3}" for number in range(30)],
        "tag": ["".join("<&"[character in "<>"] for character in source) for source in sources],
        "complete": [HOSTILE[number:] for number in range(30)],
    }
    for kind, found in targets.items():
        lines = (f"{source}\t{target}\n" for source, target in zip(sources, found, strict=True))
        corpus = folder / f"{kind}<i>.txt"
        corpus.write_text("".join(lines), encoding="utf-8")
        train_all(small_config(corpus, f"task.kind={kind}", "training.steps=3"), folder / kind)
    runs = [load_any(folder / kind, device="cpu") for kind in targets]
    measured = measure([run.trained for run in runs], OPTIONS)
    attention = Attention([HOSTILE, "a"], ["<b>", "<EOS>"], [[0.3, 0.7], [0.9, 0.1]])
    with_attention = replace(measured.runs[2], attention=[attention])
    html = make_report(replace(measured, runs=[*measured.runs[:2], with_attention])).html
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page_file(report, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def watched(browser) -> Watched:
    return watched_page(browser)


@pytest.fixture(scope="module")
def watched_tasks(browser) -> Watched:
    return watched_page(browser)


@pytest.fixture
def page(watched, page_file) -> Iterator:
    """The opened report, whose requests and console messages are checked at the end."""
    yield from _opened(watched, page_file)


@pytest.fixture
def task_page(watched_tasks, task_file) -> Iterator:
    """The opened report on tasks; a test may use both reports."""
    yield from _opened(watched_tasks, task_file)


def _opened(watched: Watched, page_file: Path) -> Iterator:
    watched.reset()
    watched.page.goto(page_file.as_uri())
    yield watched.page
    assert watched.messages == []
    assert watched.requests_elsewhere() == [page_file.as_uri()]


def test_hovering_changes_the_shading_of_every_memory_row(page):
    classes = "rows => rows.map(row => [...row.children].map(token => token.className).join())"
    before = page.locator("[data-mem]").evaluate_all(classes)
    page.locator('[data-mem="0"] i').nth(30).hover()
    after = page.locator("[data-mem]").evaluate_all(classes)
    assert len(before) == 2
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert page.locator('[data-mem="1"] i.cur').count() == 1


def test_keys_move_through_a_passage_and_escape_returns(page):
    passage = page.locator("#p-surprisal")
    passage.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert passage.get_attribute("aria-valuenow") == "2"
    assert passage.get_attribute("aria-valuetext").startswith("s, ")
    page.keyboard.press("Escape")
    assert passage.get_attribute("aria-valuenow") != "2"


def test_the_axis_switch_shows_another_chart(page):
    shown = "nodes => nodes.findIndex(node => node.getBoundingClientRect().width > 0)"
    charts = page.locator("[data-v] svg.chart")
    before = charts.evaluate_all(shown)
    page.locator('input[name="x-loss"][value="steps"]').check(force=True)
    assert charts.evaluate_all(shown) != before


def test_hostile_text_is_displayed_as_text_and_the_page_stays_whole(page):
    assert page.evaluate("window.harmed") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert "<script>window.harmed=1</script>" in page.locator("#p-surprisal").text_content()
    assert "<b>'xxx" in page.locator("h1").text_content()
    assert page.locator("footer").is_visible()


def test_hostile_text_of_tasks_is_displayed_as_text_and_the_page_stays_whole(task_page):
    page = task_page
    assert page.evaluate("window.harmed") is None
    assert page.locator("img, main b b, main script").count() == 0
    assert page.locator("script").count() == 2
    for figure in ("errors-1", "errors-3", "examples-3", "confusion-1", "attention-3-1"):
        text = page.locator(f"#f-{figure}").text_content()
        assert "<script>" in text, figure
        assert "\u202e" not in text, figure
    assert page.locator("footer").is_visible()


def test_the_figures_of_tasks_are_complete_without_a_script(browser, task_page, task_file):
    parts = ["#panel-tags-2", "#f-confusion-1 .legend", "#f-attention-3-1 .legend"]
    with browser.new_context(java_script_enabled=False) as context:
        still = context.new_page()
        still.goto(task_file.as_uri())
        for part in parts:
            shown = still.locator(part).inner_html()
            assert shown == task_page.locator(part).inner_html(), part
        assert still.locator("#f-confusion-1 svg.chart:visible").count() == 1


def test_keys_and_pointer_move_through_a_matrix_by_rows_and_columns(task_page):
    plot = task_page.locator("#f-attention-3-1 .plot")
    cell = task_page.locator('#f-attention-3-1 [data-part="cell"]')
    plot.focus()
    shown = []
    for key in ("Home", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"):
        task_page.keyboard.press(key)
        shown.append(cell.text_content())
    assert shown == ["30 %", "70 %", "10 %", "90 %", "30 %"]
    task_page.keyboard.press("Escape")
    task_page.locator("h1").click()
    left, top, width, height = map(
        float, plot.locator("svg:visible").get_attribute("data-grid").split()
    )
    box = plot.locator("svg:visible").bounding_box()
    scale = box["width"] / float(plot.locator("svg:visible").get_attribute("width"))
    plot.scroll_into_view_if_needed()
    box = plot.locator("svg:visible").bounding_box()
    task_page.mouse.move(
        box["x"] + (left + 0.5 * width) * scale, box["y"] + (top + 1.5 * height) * scale
    )
    assert cell.text_content() == "90 %"


def test_the_panel_of_labels_follows_the_token(task_page):
    passage = task_page.locator("#p-tags-2")
    tokens = passage.locator("i")
    tokens.nth(3).hover()
    assert passage.get_attribute("aria-valuenow") == "4"
    panel = task_page.locator("#panel-tags-2").inner_text()
    assert panel.splitlines()[0] == f"Token {tokens.nth(3).text_content()}"
    wrong = tokens.evaluate_all("nodes => nodes.map(node => node.classList.contains('wrong'))")
    for number in (wrong.index(True), wrong.index(False)):
        tokens.nth(number).hover()
        text = passage.get_attribute("aria-valuetext")
        assert ("wrong" in text) == wrong[number]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_on_tasks_fits_a_phone(task_page, scheme):
    task_page.emulate_media(color_scheme=scheme)
    task_page.set_viewport_size({"width": 390, "height": 800})
    assert task_page.evaluate("document.documentElement.scrollWidth") <= 390


def test_figures_and_panels_are_complete_without_a_script(browser, page_file):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(page_file.as_uri())
        assert page.locator("svg.chart:visible").count() >= 8
        for name in ("surprisal", "unit", "embeddings"):
            assert page.locator(f"#panel-{name}").inner_text() != "", name
        assert page.locator("[data-top='0'] li").count() == 3
        assert page.locator("button:visible, [data-script]:visible").count() == 0


def test_panels_say_the_same_without_and_with_a_script(browser, page, page_file):
    with browser.new_context(java_script_enabled=False) as context:
        still = context.new_page()
        still.goto(page_file.as_uri())
        for name in ("#panel-surprisal", "#panel-unit", "#panel-embeddings", "[data-top='0']"):
            assert still.locator(name).inner_html() == page.locator(name).inner_html(), name


def test_a_figure_in_a_notebook_has_its_own_style_and_changes_no_other(browser, report):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_content(
        "<p class='find'>text of the notebook</p>" + report.figures["loss"]._repr_html_()
    )
    colour = "node => getComputedStyle(node).stroke"
    assert page.locator("path.l.s1").first.evaluate(colour) == "rgb(10, 79, 156)"
    assert page.locator("svg.chart:visible").count() == 1
    assert (
        page.locator("p.find").first.evaluate("node => getComputedStyle(node).fontSize") == "16px"
    )
    page.close()


def test_numbers_and_downloads_are_those_of_the_figure(page):
    figure = page.locator("figure", has=page.locator('[data-csv="loss"]'))
    figure.locator("summary").first.click()
    figure.locator("details table tbody tr").first.wait_for()  # The event comes after the click.
    assert figure.locator("details table tbody tr").count() >= 3
    with page.expect_download() as csv:
        figure.locator('[data-csv="loss"]').click()
    lines = csv.value.path().read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + figure.locator("details table tbody tr").count()
    with page.expect_download() as drawing:
        figure.locator('[data-svg="loss"]').click()
    assert drawing.value.path().read_text(encoding="utf-8").startswith("<svg")


def test_text_in_a_csv_file_is_no_formula_in_a_spreadsheet(page):
    with page.expect_download() as csv:
        page.locator('[data-csv="surprisal"]').click()
    lines = csv.value.path().read_text(encoding="utf-8").splitlines()
    tokens = [line.split(",")[2] for line in lines if line.count(",") == 6]
    assert "'=" in tokens
    assert not [token for token in tokens if token[:1] in "=+-@" and token]


def test_a_passage_from_right_to_left_is_shown_and_read_from_right_to_left(page):
    for name in ("surprisal", "memory"):
        slider = page.locator(f"#p-{name}")
        passage = slider.locator("xpath=descendant-or-self::*[contains(@class, 'text')]").first
        first = passage.locator("i").first
        left = first.bounding_box()["x"]
        first.evaluate("node => { node.textContent = 'ש'; }")
        assert first.bounding_box()["x"] > left + 100, name
        slider.focus()
        slider.press("Home")
        slider.press("ArrowLeft")
        assert slider.get_attribute("aria-valuenow") == "2", name


def test_selecting_a_range_lists_units_and_other_places_with_the_same_pattern(page):
    tokens = page.locator("#p-unit i")
    tokens.nth(10).scroll_into_view_if_needed()
    first, last = tokens.nth(10).bounding_box(), tokens.nth(11).bounding_box()
    page.mouse.move(first["x"] + 2, first["y"] + 5)
    page.mouse.down()
    page.mouse.move(last["x"] + 2, last["y"] + 5)
    page.mouse.up()
    assert page.locator("#p-unit i.sel").count() == 2
    panel = page.locator("#panel-unit").inner_text()
    units = re.search(r"are among their highest tenth throughout: (\d+) of \d+", panel)
    assert units is not None
    hits = re.search(r"are, underlined: (\d+)", panel)
    assert (hits is not None) == (int(units[1]) > 0)
    assert page.locator("#p-unit i.hit").count() == (int(hits[1]) if hits else 0)
    page.locator("#p-unit").focus()
    page.keyboard.press("Escape")
    assert page.locator("#p-unit i.sel, #p-unit i.hit").count() == 0
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator("#p-unit i.sel").count() == 3


def test_keys_of_the_browser_stay_with_the_browser(page):
    sent = """node => node.dispatchEvent(new KeyboardEvent(
        'keydown', { key: 'ArrowLeft', altKey: true, bubbles: true, cancelable: true }))"""
    slider = page.locator("[role=slider]:visible").first
    before = slider.get_attribute("aria-valuenow")
    assert slider.evaluate(sent)
    assert slider.get_attribute("aria-valuenow") == before


def test_every_chart_and_passage_is_one_tab_stop_that_keys_move(page):
    sliders = page.locator("[role=slider]:visible")
    assert sliders.count() >= 12
    for number in range(sliders.count()):
        slider = sliders.nth(number)
        name = slider.get_attribute("aria-label")
        slider.focus()
        last = int(slider.get_attribute("aria-valuemax"))
        now = lambda: int(slider.get_attribute("aria-valuenow"))  # noqa: B023, E731
        page.keyboard.press("End")
        assert now() == last, name
        page.keyboard.press("Home")
        assert now() == 1, name
        page.keyboard.press("PageDown")
        assert now() == min(last, 1 + max(1, int(last / 10 + 0.5))), name
        page.keyboard.press("PageUp")
        page.keyboard.press("ArrowRight")
        assert now() == min(last, 2), name
        assert slider.get_attribute("aria-valuetext"), name
        assert slider.locator("[tabindex]").count() == 0, name


def test_a_kept_place_stays_until_escape(page):
    passage = page.locator("#p-surprisal")
    tokens = passage.locator("i")
    tokens.nth(20).click()
    tokens.nth(40).hover()
    assert passage.get_attribute("aria-valuenow") == "21"
    passage.focus()
    page.keyboard.press("Escape")
    tokens.nth(40).hover()
    assert passage.get_attribute("aria-valuenow") == "41"


@pytest.mark.parametrize("name", ["page", "task_page"])
def test_headings_are_in_order_and_tables_have_scopes(name, request):
    page = request.getfixturevalue(name)
    headings = page.locator("h1, h2, h3, h4, h5, h6")
    levels = headings.evaluate_all("nodes => nodes.map(node => +node.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("input:not(label input), select:not(label select)").count() == 0


def test_forced_colours_keep_marks_and_nothing_moves_on_its_own(page):
    page.emulate_media(forced_colors="active", reduced_motion="reduce")
    outline = "node => getComputedStyle(node).outlineStyle"
    assert page.locator("#p-surprisal i.cur").evaluate(outline) == "solid"
    assert page.locator(".seg label:has(input:checked)").first.evaluate(outline) == "solid"
    moving = "nodes => nodes.filter(n => getComputedStyle(n).transitionDuration !== '0s').length"
    assert page.locator("*").evaluate_all(moving) == 0


def test_print_is_light_and_leaves_out_controls(page):
    page.emulate_media(color_scheme="dark", media="print")
    colour = "node => getComputedStyle(node).color"
    assert page.locator("h1").evaluate(colour) == "rgb(26, 30, 35)"
    assert page.locator("nav:visible, .foot:visible, .seg:visible, select:visible").count() == 0
    assert page.locator("svg.chart:visible").count() >= 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_horizontal_scrolling(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_no_text_sticks_out_of_its_chart(page, task_page):
    outside = """charts => charts.flatMap(chart => {
      const box = chart.getBoundingClientRect();
      return [...chart.querySelectorAll('text')].filter(text => {
        const own = text.getBoundingClientRect();
        return box.width && (own.right > box.right + 1 || own.left < box.left - 1);
      }).map(text => text.textContent);
    })"""
    for width in (390, 1280):
        for opened in (page, task_page):
            opened.set_viewport_size({"width": width, "height": 800})
            charts = opened.locator("figure:not(#f-embeddings) svg.chart")
            assert charts.evaluate_all(outside) == []
