"""The exported page in headless Chromium, which opens it from a file."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import BROWSER_TEST, Watched, launched, watched_page
from conftest import small_config, train_all

import charlm
from charlm.model_texts import training_texts

pytestmark = BROWSER_TEST
HOSTILE = (
    '</script><script>window.harmed=1</script><!--<img src=x onerror="window.harmed=1">\u202e&amp;'
)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def watched(browser) -> Watched:
    return watched_page(browser)


@pytest.fixture
def open_page(watched) -> Iterator:
    """Open a file; before the next one, check that it made no request and had no message."""
    opened = []

    def check() -> None:
        assert watched.messages == []
        assert watched.requests_elsewhere() == opened[-1:]

    def open_file(path: Path, **options: object):
        check()
        watched.reset(**options)
        watched.page.goto(path.as_uri())
        opened.append(path.as_uri())
        return watched.page

    watched.reset()
    yield open_file
    check()


@pytest.fixture(scope="module")
def records_page(trained_records, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("html") / "records.html"
    charlm.export_run(charlm.load(trained_records), "html", path, new_only=True)
    return path


@pytest.fixture(scope="module")
def stream_page(trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("html") / "stream.html"
    charlm.export_run(charlm.load(trained), "html", path, precision="fp32")
    return path


def records_of(page) -> list[str]:
    return page.locator("#records .record").all_text_contents()


def wait_for_records(page, count: int) -> None:
    page.locator("#records li").nth(count - 1).wait_for()
    page.get_by_role("button", name="more").wait_for()


def test_records_come_twenty_at_a_click_and_new_ones_only(open_page, records_page, trained_records):
    page = open_page(records_page)
    wait_for_records(page, 20)
    first = records_of(page)
    assert len(set(first)) == 20
    page.get_by_role("button", name="Twenty more").click()
    wait_for_records(page, 40)
    both = records_of(page)
    assert both[20:] == first and len(set(both)) == 40
    train = training_texts(charlm.load(trained_records).trained)["train"]
    known = {record for block, _ in train.blocks() for record in block.decode().split()}
    assert len(known) == 120 and not known & set(both)
    page.get_by_label("Only new").uncheck()
    page.get_by_role("button", name="Twenty more").click()
    wait_for_records(page, 60)
    assert len(records_of(page)) == 60
    assert len(known & set(records_of(page)[:20])) > 0


def test_kept_records_can_be_copied_and_saved(open_page, records_page, browser):
    page = open_page(records_page)
    wait_for_records(page, 20)
    assert page.locator("#kept-empty").is_visible()
    texts = records_of(page)
    for number in (3, 0, 5, 3):  # The second click on a record removes it.
        page.locator("#records .keep").nth(number).click()
    assert page.locator("#kept .record").all_text_contents() == [texts[0], texts[5]]
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.path().read_text(encoding="utf-8") == f"{texts[0]}\n{texts[5]}\n"


def test_the_seed_decides_the_records(open_page, records_page):
    page = open_page(records_page)
    wait_for_records(page, 20)
    first = records_of(page)
    page.get_by_label("Only new").uncheck()
    page.get_by_role("button", name="Settings").click()
    for seed in ("1", "2", "1"):
        page.get_by_label("Seed").fill(seed)
        page.keyboard.press("Control+Enter")
        page.get_by_text("20 records in").wait_for()
    wait_for_records(page, 80)
    shown = records_of(page)
    assert shown[:20] == shown[40:60] != shown[20:40]
    page.keyboard.press("Escape")
    assert page.locator("#settings").is_hidden()
    page.get_by_label("Begin with").fill("ba")
    page.keyboard.press("Enter")
    wait_for_records(page, 100)
    assert all(text.startswith("ba") for text in records_of(page)[:20])
    assert len(first) == 20


def test_control_and_enter_in_the_prompt_write_once(open_page, records_page):
    page = open_page(records_page)
    wait_for_records(page, 20)
    page.get_by_label("Only new").uncheck()
    page.get_by_label("Begin with").fill("b")
    page.keyboard.press("Control+Enter")
    page.get_by_text("20 records in").wait_for()
    wait_for_records(page, 40)
    assert len(records_of(page)) == 40


def test_a_number_that_is_refused_is_replaced(open_page, stream_page):
    page = open_page(stream_page)
    page.get_by_role("button", name="Settings").click()
    seed = page.get_by_label("Seed")
    for refused in ("1.5", "-1", ""):
        seed.fill(refused)
        seed.press("Tab")
        assert seed.input_value() == "1", refused


def test_a_text_goes_on_from_where_it_was(open_page, stream_page, trained):
    page = open_page(stream_page)
    area = page.get_by_role("textbox", name="Text")
    area.fill("The cat ")
    page.get_by_label("Write").select_option("50")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0")
    page.keyboard.press("Control+Enter")
    page.get_by_text("Wrote 50 characters").wait_for()
    page.get_by_label("Write").select_option("200")
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("Wrote 200 characters").wait_for()
    run = charlm.load(trained)
    (expected,) = run.sample(prompt="The cat ", temperature=0, characters=250)
    assert area.input_value() == expected.text


def test_parts_of_a_text_continue_its_random_numbers(open_page, stream_page):
    texts = []
    for length, clicks in (("200", 1), ("50", 4)):
        page = open_page(stream_page)
        page.get_by_label("Write").select_option(length)
        for click in range(1, clicks + 1):
            page.get_by_role("button", name="Continue").click()
            page.get_by_text(f"Wrote {length} characters").wait_for()
            text = page.get_by_role("textbox", name="Text").input_value()
            assert len(text) == click * int(length)
        texts.append(text)
    assert texts[0] == texts[1]


def test_the_speed_is_that_of_writing_without_the_time_of_reading(open_page, stream_page):
    page = open_page(stream_page)
    page.evaluate(
        """() => {
          let now = 0;
          performance.now = () => now;
          for (const [name, duration] of [['read', 1000], ['step', 10]]) {
            const compute = model.network[name].bind(model.network);
            model.network[name] = (...given) => { now += duration; return compute(...given); };
          }
        }"""
    )
    page.get_by_role("textbox", name="Text").fill("The cat sat")
    page.get_by_label("Write").select_option("50")
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("Wrote 50 characters, 100 per second.").wait_for(timeout=5000)


def test_a_text_from_right_to_left_is_typed_from_right_to_left(
    open_page, stream_page, records_page
):
    for path, name in ((stream_page, "Text"), (records_page, "Begin with")):
        area = open_page(path).get_by_role("textbox", name=name)
        for text, direction in (("שלום", "rtl"), ("The", "ltr")):
            area.fill(text)
            assert area.evaluate("node => getComputedStyle(node).direction") == direction, text


def test_typing_and_writing_can_be_undone_and_redone(open_page, stream_page):
    page = open_page(stream_page)
    area = page.get_by_role("textbox", name="Text")
    undo, redo = (page.get_by_role("button", name=name) for name in ("Undo", "Redo"))
    assert undo.is_disabled() and redo.is_disabled()
    area.press_sequentially("The cat")
    page.get_by_role("button", name="Continue").click()
    page.get_by_text("Wrote 500 characters").wait_for()
    written = area.input_value()
    undo.click()
    assert area.input_value() == "The cat"
    area.press("Control+z")
    assert area.input_value() == "" and undo.is_disabled()
    area.press("Control+Shift+z")
    redo.click()
    assert area.input_value() == written and redo.is_disabled()
    undo.click()
    area.press_sequentially(" é")
    assert redo.is_disabled()
    assert page.locator("#unknown").text_content() == (
        "The model does not know “é”. It reads this as unknown."
    )


def test_a_long_text_can_be_stopped(open_page, stream_page):
    page = open_page(stream_page)
    page.locator("#length").evaluate(
        "select => select.append(new Option('1000000000', '1000000000', true, true))"
    )
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Stop").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Continue").wait_for()
    text = page.get_by_role("textbox", name="Text").input_value()
    assert page.locator("#status").text_content().startswith(f"Wrote {len(text)} characters")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_horizontal_scrolling(open_page, records_page, stream_page, scheme):
    for path in (records_page, stream_page):
        page = open_page(path, width=390, height=800, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.get_by_role("button", name="Settings").click()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.get_by_label("Seed").is_visible()
        heights = page.locator("button:visible, select:visible").evaluate_all(
            "nodes => nodes.map(node => node.getBoundingClientRect().height)"
        )
        assert min(heights) >= 32


def test_every_control_has_a_name_and_ids_are_unique(open_page, records_page, stream_page):
    unnamed = """nodes => nodes.filter(node =>
        !node.labels?.length && !node.getAttribute('aria-label') && !node.textContent).length"""
    for path in (records_page, stream_page):
        page = open_page(path)
        assert page.locator("button, input, select, textarea").evaluate_all(unnamed) == 0
        ids = page.locator("[id]").evaluate_all("nodes => nodes.map(node => node.id)")
        assert len(ids) == len(set(ids))
        for name in ("aria-controls", "aria-describedby", "aria-labelledby"):
            named = page.locator(f"[{name}]").evaluate_all(
                f"nodes => nodes.map(node => node.getAttribute('{name}'))"
            )
            assert set(named) <= set(ids)
        assert page.locator("h1").count() == 1


def test_hostile_tokens_and_titles_are_displayed_as_text(open_page, tmp_path):
    corpus = tmp_path / "<img src=x onerror=harmed()>&amp;.txt"
    lines = [f"{HOSTILE} {number}\n" for number in range(10, 60)]
    corpus.write_text("".join(lines), encoding="utf-8")
    for level, whitespace in (("word", "whitespace"), ("char", "words")):
        folder = tmp_path / level
        overrides = (f"tokenizer.level={level}", f"tokenizer.words={whitespace}")
        overrides += ("corpus.mode=records",)
        train_all(small_config(corpus, *overrides), folder)
        path = tmp_path / f"{level}.html"
        charlm.export_run(charlm.load(folder), "html", path, new_only=True)
        page = open_page(path)
        wait_for_records(page, 20)
        page.get_by_label("Begin with").fill(HOSTILE)
        page.get_by_role("button", name="Twenty more").click()
        wait_for_records(page, 40)
        assert page.evaluate("window.harmed") is None
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 4
        assert page.locator("h1").text_content() == corpus.name
        assert all(text.startswith(HOSTILE) for text in records_of(page)[:20])
        page.locator("#records .keep").first.click()
        assert page.locator("#kept li").count() == 1
