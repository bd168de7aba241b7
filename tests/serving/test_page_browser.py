"""The page in headless Chromium, with a server of small runs."""

import json
from base64 import b64encode
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from browser import BROWSER_TEST, Watched, launched, sync_api, watched_page
from serving.servers import KEY, running

pytestmark = BROWSER_TEST
HOSTILE = (
    '<script>window.harmed=1</script><img src=x onerror="window.harmed=1">\u202e\u2028"\'&amp;'
)
# What Chromium writes to the console if a response has the status of an error.
FAILED = "Failed to load resource: the server responded with a status of "
TEXT = "The cat sat on the mat.\n"
# The first and the last dark pixel of each row of a picture inside its border.
INK_EDGES = """async picture => {
  const bytes = Uint8Array.from(atob(picture), letter => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes])), { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d');
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height), rows = [];
  for (let y = 4; y < height - 4; y++) {
    const dark = [];
    for (let x = 4; x < width - 4; x++) if (data[4 * (y * width + x)] < 128) dark.push(x);
    if (dark.length) rows.push([y, dark[0], dark.at(-1)]);
  }
  return rows;
}"""


@pytest.fixture(scope="module")
def server(page_runs) -> Iterator[str]:
    with running(list(page_runs.values())) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def watched(browser) -> Watched:
    watched = watched_page(browser)
    watched.page.set_default_timeout(15_000)
    return watched


@pytest.fixture
def page(watched, server, request) -> Iterator:
    """The opened page, whose requests and console messages are checked at the end.

    A test whose requests fail on purpose has the marker `usefixtures("failing")`.
    """
    watched.reset()
    open_page(watched.page, server)
    yield watched.page
    if "failing" in request.fixturenames:
        assert all(message.startswith(FAILED) for message in watched.messages)
    else:
        assert watched.messages == []
    assert watched.requests_elsewhere(server) == []


@pytest.fixture
def failing() -> None:
    """The test lets requests fail."""


def open_page(page, server, **state) -> None:
    page.goto("about:blank")
    page.goto(server.rstrip("/") + "/#" + quote(json.dumps(state)) if state else server)
    page.locator("#run option").first.wait_for(state="attached")


def write(page, text: str) -> None:
    """Replace the text by typing, and wait until it is coloured."""
    page.locator("#text").fill(text)
    coloured(page)


def coloured(page) -> None:
    page.locator("#status", has_text="bits per character").wait_for()
    sync_api.expect(page.locator("#back i:not([class])")).to_have_count(0)


def quoted(text: str) -> str:
    """Return a text as a sentence of the page has it."""
    return f"“\u2068{text}\u2069”"


def text_of(page) -> str:
    return page.locator("#text").input_value()


def continue_text(page, characters: str = "50") -> None:
    """Continue by the keyboard, and wait until the text is written."""
    before = text_of(page)
    page.locator("#len").select_option(characters)
    page.locator("#text").focus()
    page.keyboard.press("Control+Enter")
    sync_api.expect(page.locator("#text")).not_to_have_value(before)
    sync_api.expect(page.locator("#go")).not_to_have_text("Stop")


def place_caret(page, at: int) -> None:
    page.locator("#text").focus()
    page.locator("#text").evaluate("(area, at) => area.setSelectionRange(at, at)", at)


def heading(page, text: str) -> None:
    """Wait until the list of alternatives is there, with this heading."""
    sync_api.expect(page.locator("#nx")).to_have_text(text)
    listed(page)


def listed(page) -> None:
    """Wait until the alternatives are those of the present text and caret."""
    sync_api.expect(page.locator("#alts:not([aria-busy])")).to_be_visible()


def test_typing_colours_the_text(page):
    page.locator("#text").focus()
    page.keyboard.type("The caz sat")
    coloured(page)
    classes = page.locator("#back i").evaluate_all("nodes => nodes.map(node => node.className)")
    assert len(classes) == len("The caz sat")
    assert len(set(classes)) > 2


def test_the_colours_have_the_layout_of_the_text_area(page):
    for text in ("The\n\n\ncat \n", "The cat sat " * 40, "x" * 400 + "\n\n", "\n"):
        page.locator("#text").fill(text)
        coloured(page)
        area, back = page.locator("#text").bounding_box(), page.locator("#back").bounding_box()
        assert (area["x"], area["y"], area["width"]) == (back["x"], back["y"], back["width"])
        # Without a minimum the text area is as high as its own text.
        heights = page.evaluate(
            """() => {
              const [area, back] = ['#text', '#back'].map(name => document.querySelector(name));
              back.style.alignSelf = area.style.alignSelf = 'start';
              area.style.height = '0';
              return [back.scrollHeight, area.scrollHeight];
            }"""
        )
        assert heights[0] == heights[1], text
        page.evaluate("document.querySelector('#text').removeAttribute('style')")
        page.evaluate("document.querySelector('#back').removeAttribute('style')")


def test_the_colours_stand_behind_a_text_from_right_to_left(page):
    page.locator("#text").fill(
        "שלום (1948) עולם.\nThe שלום cat.\n12 (3)\n\n- שלום, abc!\n" + "שלום " * 40
    )
    coloured(page)
    page.locator("#text").evaluate("area => { area.style.caretColor = 'transparent'; }")
    pictures = []
    # The same picture if either the text area or the text with the colours shows its letters.
    for letters, hidden in (("text", "back"), ("back", "text")):
        page.evaluate(
            """([letters, hidden]) => {
              const style = new CSSStyleSheet();
              style.replaceSync(`#${letters} { color: black !important } #back .nl::before { content: none }
                #${hidden}, #${hidden} * { color: transparent !important } #back i { all: unset }`);
              document.adoptedStyleSheets = [style];
            }""",
            [letters, hidden],
        )
        pictures.append(page.locator(".ed").screenshot())
    lines = page.locator("#back div").evaluate_all(
        "nodes => nodes.map(node => getComputedStyle(node).direction)"
    )
    assert lines == ["rtl", "ltr", "ltr", "ltr", "rtl", "rtl"]
    page.goto("about:blank")
    edges = [page.evaluate(INK_EDGES, b64encode(picture).decode()) for picture in pictures]
    assert len(edges[0]) == len(edges[1]) > 0
    for (row, left, right), other in zip(*edges, strict=True):
        # Letters of their own elements begin at rounded positions.
        assert row == other[0] and abs(left - other[1]) <= 1 and abs(right - other[2]) <= 1


def test_texts_from_right_to_left_are_typed_and_shown_from_right_to_left(page):
    shown_directions = """nodes => nodes.map(node => getComputedStyle(node).direction)"""
    for tab, area, text in (
        ("score", "#sents", "#scores .tx"),
        ("memory", "#msent", "#mem:has(i)"),
    ):
        page.locator(f"#t-{tab}").click()
        page.locator(area).fill("שלום עולם")
        assert page.locator(area).evaluate_all(shown_directions) == ["rtl"]
        sync_api.expect(page.locator(text)).to_contain_text("שלום")
        assert page.locator(text).evaluate_all(shown_directions) == ["rtl"]
    row = page.locator("#mem")
    before = int(row.get_attribute("aria-valuenow"))
    row.press("ArrowLeft")
    assert row.get_attribute("aria-valuenow") == str(before + 1)


def test_continue_streams_and_undo_and_redo_work(page):
    write(page, TEXT)
    with page.expect_response("**/v1/completions") as response:
        continue_text(page)
    assert response.value.headers["content-type"].startswith("text/event-stream")
    written = text_of(page)
    assert written.startswith(TEXT)
    assert len(written) == len(TEXT) + 50
    coloured(page)
    page.keyboard.press("Control+z")
    sync_api.expect(page.locator("#text")).to_have_value(TEXT)
    page.keyboard.press("Control+Shift+z")
    sync_api.expect(page.locator("#text")).to_have_value(written)


def test_a_stream_can_be_stopped_and_the_text_so_far_stays(page):
    write(page, TEXT)
    page.evaluate("document.querySelector('#len').append(new Option('100000'))")
    page.locator("#len").select_option("100000")
    page.locator("#text").focus()
    page.keyboard.press("Control+Enter")
    sync_api.expect(page.locator("#go")).to_have_text("Stop")
    sync_api.expect(page.locator("#text")).not_to_have_value(TEXT)
    page.keyboard.press("Escape")
    sync_api.expect(page.locator("#go")).to_have_text("Continue")
    assert len(TEXT) < len(text_of(page)) < 20_000
    assert page.locator("#text").is_editable()


def test_an_alternative_is_taken_and_the_text_continues(page):
    write(page, "The c")
    heading(page, "Next character")
    button = page.locator("#alts button").nth(1)
    taken = button.locator("code").text_content().replace("␣", " ").replace("↵", "\n")
    button.click()
    sync_api.expect(page.locator("#text")).to_have_value("The c" + taken)
    listed(page)
    page.keyboard.press("Alt+1")
    sync_api.expect(page.locator("#text")).not_to_have_value("The c" + taken)
    continue_text(page)
    assert text_of(page).startswith("The c" + taken)


def test_another_token_inside_the_text_starts_a_branch_and_keeps_the_old_text(page):
    write(page, "The cat sat on")
    place_caret(page, 4)
    heading(page, f"Instead of {quoted('c')}")
    assert page.locator("#back i.at").text_content() == "c"
    page.locator("#alts li:not(.is) button:enabled").first.click()
    assert page.locator("#blist li").count() == 2
    branch = text_of(page)
    assert branch.startswith("The ")
    assert len(branch) == 5
    continue_text(page)
    page.locator("#br0").check()
    sync_api.expect(page.locator("#text")).to_have_value("The cat sat on")
    page.locator("#blist .x").nth(1).click()
    sync_api.expect(page.locator("#branches")).to_be_hidden()
    for _ in range(8):
        page.keyboard.press("Control+z")
    assert page.locator("#undo").is_disabled()
    assert text_of(page) == ""


def test_continue_inside_the_text_starts_a_branch_with_other_random_numbers(page):
    write(page, TEXT)
    continue_text(page)
    first = text_of(page)
    place_caret(page, len(TEXT))
    sync_api.expect(page.locator("#go")).to_have_text("Continue here")
    continue_text(page)
    assert page.locator("#blist li").count() == 2
    assert text_of(page)[: len(TEXT)] == first[: len(TEXT)]
    assert text_of(page) != first


def test_settings_change_the_bars(page):
    write(page, "The c")
    page.locator("#set").click()
    page.locator("#s-t").fill("0")
    sync_api.expect(page.locator("#alts .v").first).to_have_text("100 %")
    sync_api.expect(page.locator("#facts")).to_contain_text("1 of ")
    assert page.locator("#alts li.cut").count() == 9
    page.keyboard.press("Escape")
    assert page.locator("#drawer").is_hidden()


@pytest.mark.usefixtures("failing")
def test_a_wrong_expression_is_explained_beside_its_field(page):
    write(page, "The c")
    page.locator("#set").click()
    page.locator("#s-r").fill("[a-")
    page.locator("#go").click()
    sync_api.expect(page.locator("#e-r")).to_be_visible()
    assert text_of(page) == "The c"


def test_reloading_the_address_restores_the_page(page):
    write(page, "The cat")
    place_caret(page, 3)
    heading(page, f"Instead of {quoted('␣')}")
    page.locator("#alts li:not(.is) button:enabled").first.click()
    page.locator("#set").click()
    page.locator("#s-t").fill("0.35")
    page.locator("#run").select_option("words")
    sync_api.expect(page.locator("#unit")).to_have_text("tokens")
    page.wait_for_timeout(400)
    text, address = text_of(page), page.url
    page.reload()
    sync_api.expect(page.locator("#text")).to_have_value(text)
    assert page.url == address
    assert page.locator("#run").input_value() == "words"
    assert page.locator("#s-t").input_value() == "0.35"
    assert page.locator("#blist li").count() == 2


def test_a_strange_address_does_no_harm(page, server):
    for state in (
        {"br": [{"t": 3}], "cur": 9, "set": {"t": "x", "r": []}, "tab": "no", "run": "nothing"},
        {"br": "x", "kept": [1], "set": None, "sents": 5},
        {"br": [{"t": "The cat", "f": 99}], "cur": -1},
    ):
        open_page(page, server, **state)
        page.locator("#alts li").first.wait_for()
        assert page.locator("#t-write").get_attribute("aria-selected") == "true"


def test_hostile_text_is_displayed_as_text_in_every_view(page, server):
    branch = {"t": HOSTILE + " x", "f": 3}
    open_page(
        page, server, br=[{"t": HOSTILE, "f": 0}, branch], sents=HOSTILE, ms=HOSTILE, kept=[HOSTILE]
    )
    coloured(page)
    assert page.locator("#back").text_content().rstrip("\u200b") == HOSTILE
    page.locator("#t-score").click()
    sync_api.expect(page.locator("#scores")).to_contain_text("window.harmed")
    page.locator("#t-memory").click()
    page.locator("#mem i").first.wait_for()
    page.locator("#run").select_option("records")
    page.locator("#t-records").click()
    page.locator("#recs li").first.wait_for()
    assert "[U+202E][U+2028]" in page.locator("#kept").text_content()
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    assert page.evaluate("window.harmed") is None


@pytest.mark.parametrize(
    "name",
    ["words", "bpe", *(pytest.param(name, marks=pytest.mark.slow) for name in ("spaced", "bytes"))],
)
def test_runs_of_other_tokens_work_and_the_caret_snaps_to_tokens(page, name):
    page.locator("#run").select_option(name)
    write(page, "The old owl sang")
    heading(page, "Next byte" if name == "bytes" else "Next token")
    page.locator("#alts button:enabled").first.click()
    sync_api.expect(page.locator("#text")).not_to_have_value("The old owl sang")
    write(page, "The old owl sang")
    place_caret(page, 5)
    page.locator("#nx", has_text="Instead of").wait_for()
    page.locator("#text").dispatch_event("click")
    token = page.locator("#back i.at")
    token.wait_for()
    start = page.locator("#text").evaluate("area => area.selectionStart")
    before = page.locator("#back").evaluate(
        "back => { let text = ''; for (const node of back.querySelectorAll('i')) "
        "{ if (node.classList.contains('at')) return text; text += node.textContent; } }"
    )
    assert start == (5 if name == "bytes" else len(before))
    continue_text(page)


def test_a_run_of_records_writes_one_record_after_another(page):
    page.locator("#run").select_option("records")
    write(page, "ba")
    continue_text(page)
    first = text_of(page)
    assert first.startswith("ba")
    assert first.endswith("\n")
    continue_text(page)
    assert text_of(page).count("\n") == 2


@pytest.mark.parametrize("name", ["backward", "both"])
def test_a_model_that_cannot_continue_a_text_gives_a_reason_and_another_run(page, name):
    page.locator("#run").select_option(name)
    reason = page.locator("#v-write .reason")
    sync_api.expect(reason).to_contain_text("not available for the run " + name)
    assert page.locator("#text").is_hidden()
    page.locator("#t-memory").click()
    sync_api.expect(page.locator("#v-memory .reason")).to_be_visible()
    page.locator("#t-score").click()
    page.locator("#sents").fill("The cat sat.\nThe cat sang.")
    sync_api.expect(page.locator("#scores li")).to_have_count(3)
    page.locator("#t-write").click()
    reason.locator("button").first.click()
    sync_api.expect(page.locator("#text")).to_be_visible()


def test_sentences_are_ranked_with_the_characters_that_decide(page):
    page.locator("#t-score").click()
    page.locator("#sents").fill("The cat sat on the wat.\nThe cat sat on the mat.")
    rows = page.locator("#scores li:not(.h)")
    sync_api.expect(rows).to_have_count(2)
    assert rows.nth(0).locator(".tx").text_content().startswith("The cat sat on the mat.")
    assert rows.nth(1).locator(".big").first.text_content() == "w"
    sync_api.expect(rows.nth(1)).to_contain_text(f"Differs from 1 at {quoted('w')}")


def test_what_is_not_scored_is_announced(page):
    page.locator("#t-score").click()
    note = page.locator("#scores-note")
    page.locator("#sents").fill("a" * 501 + "\nThe cat")
    sync_api.expect(note).to_have_text("Of a longer sentence, the first 500 characters are scored.")
    page.locator("#sents").fill("The cat\n" * 52)
    sync_api.expect(note).to_have_text("The first 50 sentences are ranked; 2 more are not.")
    page.locator("#sents").fill("a" * 500)
    sync_api.expect(note).to_have_text("")


def test_a_long_text_is_cut_between_two_characters(page):
    """Not within the two units that a character such as an emoji has in JavaScript."""
    page.locator("#t-score").click()
    page.locator("#sents").fill("a" * 499 + "😀b")
    sync_api.expect(page.locator("#scores li:not(.h)")).to_have_count(1)
    page.locator("#t-memory").click()
    page.locator("#msent").fill("a" * 1999 + "😀b")
    sync_api.expect(page.locator("#mem i")).to_have_count(128)


def test_pointing_and_keys_move_through_the_memory(page):
    page.locator("#t-memory").click()
    page.locator("#msent").fill("The cat sat.")
    sync_api.expect(page.locator("#mem i")).to_have_count(12)
    page.locator("#mem i").nth(6).hover()
    sync_api.expect(page.locator("#mh")).to_have_text(f"Expected at {quoted('t')}")
    assert page.locator("#mem i.cur").text_content() == "t"
    assert page.locator("#mem i.m7").count() >= 1
    page.locator("#mem").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator("#mem").get_attribute("aria-valuenow") == "2"
    assert page.locator("#mem").get_attribute("aria-valuetext").startswith("h, ")


@pytest.mark.parametrize("name", ["words", "spaced"])
def test_unknown_words_are_shown_as_they_were_typed(page, name):
    page.locator("#run").select_option(name)
    page.locator("#t-memory").click()
    page.locator("#msent").fill("The zzyx-cat, zzyx's qqx sat.")
    sync_api.expect(page.locator("#mem-plain")).to_have_text("The zzyx-cat, zzyx's qqx sat.")


def test_an_emoji_of_several_characters_stays_whole_and_a_joiner_alone_has_its_code(page):
    page.locator("#t-score").click()
    page.locator("#sents").fill("The \U0001f469\u200d\U0001f469\nThe cat")
    sync_api.expect(page.locator("#scores .why").first).to_contain_text("Differs from")
    texts = page.locator("#scores .why").all_text_contents()
    assert any("\U0001f469\u200d\U0001f469" in text for text in texts)
    page.locator("#t-memory").click()
    page.locator("#msent").fill("The \U0001f469\u200d\U0001f469")
    sync_api.expect(page.locator("#mem")).to_have_text("The \U0001f469[U+200D]\U0001f469")


def test_the_text_before_the_next_character_begins_with_a_whole_emoji(page):
    text = "\U0001f600" * 20 + "x"
    write(page, text)
    sync_api.expect(page.locator("#ctx")).to_have_text(text)


def test_a_text_from_right_to_left_leaves_the_order_of_a_sentence(page):
    page.locator("#t-memory").click()
    page.locator("#msent").fill("אב")
    sync_api.expect(page.locator("#mem i").nth(1)).to_be_visible()
    sync_api.expect(page.locator("#mem")).not_to_have_attribute("aria-busy", "true")
    page.locator("#mem").press("End")
    most = page.locator("#mfacts dd").nth(1)
    sync_api.expect(most).to_have_text(f"{quoted('א')}, 1 character back")
    lefts = """node => ['א', '1'].map(letter => {
        const range = document.createRange(), text = node.firstChild;
        range.setStart(text, text.data.indexOf(letter));
        range.setEnd(text, text.data.indexOf(letter) + 1);
        return range.getBoundingClientRect().left;
    })"""
    token, number = most.evaluate(lefts)
    assert token < number


def test_records_are_written_kept_and_saved(page):
    page.locator("#run").select_option("records")
    page.locator("#t-records").click()
    sync_api.expect(page.locator("#recs li")).to_have_count(20)
    page.locator("#more").click()
    sync_api.expect(page.locator("#recs li")).to_have_count(40)
    name = page.locator("#recs .rt").nth(3).text_content()
    page.locator(".keep").nth(3).click()
    assert name in page.locator("#kept").text_content()
    with page.expect_download() as download:
        page.locator("#savekept").click()
    assert download.value.path().read_text(encoding="utf-8") == name + "\n"
    page.locator("#onlynew").click()
    natures = page.locator("#recs .t").all_text_contents()
    assert set(natures) == {"new"}


def test_typing_on_the_opened_page_writes_in_the_text(page):
    sync_api.expect(page.locator("#go")).to_be_enabled()
    listed(page)
    page.keyboard.press("Space")
    assert page.evaluate("document.activeElement === document.body")
    page.keyboard.type("The c")
    sync_api.expect(page.locator("#text")).to_have_value("The c")


def test_everything_can_be_reached_with_the_keyboard(page):
    page.keyboard.press("Tab")  # The link to the content.
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "run"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "t-score"
    page.keyboard.press("Home")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "set"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("The c")
    coloured(page)
    heading(page, "Next character")
    page.keyboard.press("Alt+2")
    sync_api.expect(page.locator("#text")).not_to_have_value("The c")
    listed(page)
    while page.evaluate("document.activeElement.closest('#alts') === null"):
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    before = text_of(page)
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#text")).not_to_have_value(before)
    assert page.evaluate("document.activeElement.id") == "text"


@pytest.mark.usefixtures("failing")
def test_a_server_that_fails_is_reported_and_the_text_stays(page):
    write(page, "The cat")
    error = {"error": {"message": "no", "type": "server_error", "param": None, "code": None}}

    def answer(status):
        return lambda route: route.fulfill(status=status, json=error)

    for at, status, words in ((2, 429, "busy"), (3, 401, "key"), (4, 500, "no")):
        page.route("**/page/next", answer(status))
        place_caret(page, at)
        sync_api.expect(page.locator("#problem")).to_contain_text(words)
        page.unroute("**/page/next")
        page.locator("#problem-retry").dispatch_event("click")
        listed(page)
        sync_api.expect(page.locator("#problem")).to_be_hidden()
    assert text_of(page) == "The cat"


def test_a_phone_needs_no_horizontal_scrolling_and_does_not_zoom(page, server):
    page.set_viewport_size({"width": 390, "height": 800})
    long = "x" * 300
    open_page(
        page, server, br=[{"t": long, "f": 0}, {"t": long + "y", "f": 9}], sents=long, ms=long
    )
    for name in ("write", "score", "memory", "records"):
        page.locator(f"#t-{name}").click()
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    page.locator("#t-write").click()
    page.locator("#set").click()
    sizes = page.locator("textarea, select, input:not([type=range], [type=radio])").evaluate_all(
        "nodes => nodes.filter(node => node.offsetParent).map(node => getComputedStyle(node).fontSize)"
    )
    assert min(float(size.removesuffix("px")) for size in sizes) >= 16


def test_a_text_that_is_too_long_for_the_address_is_announced(page):
    page.locator("#text").fill("日本 " * 3000)
    sync_api.expect(page.locator("#unsaved")).to_be_visible()
    assert "#" not in page.url
    page.locator("#text").fill("The cat")
    sync_api.expect(page.locator("#unsaved")).to_be_hidden()
    page.locator("#t-score").click()
    page.locator("#sents").fill("日本 " * 3000)
    sync_api.expect(page.locator("#unsaved")).to_be_visible()


def test_a_full_text_is_announced(page):
    """A browser leaves out what is too much of a pasted text, and says nothing."""
    page.locator("#text").fill("a" * 20_000)
    sync_api.expect(page.locator("#status")).to_contain_text("the most that the page holds")


def test_no_token_is_taken_where_the_text_is_full(page, server):
    def limit(route):
        found = route.fetch().json()
        found["limits"]["characters"] = 7
        route.fulfill(json=found)

    page.route("**/page/runs", limit)
    open_page(page, server)
    write(page, "The cat")
    listed(page)
    page.keyboard.press("Alt+1")
    sync_api.expect(page.locator("#problem-text")).to_contain_text("holds at most 7 characters")
    assert text_of(page) == "The cat"


def test_keys_of_the_browser_stay_with_the_browser(page):
    write(page, "The cat")
    listed(page)
    sent = """(node, key) => node.dispatchEvent(
        new KeyboardEvent('keydown', { key, altKey: true, bubbles: true, cancelable: true }))"""
    assert page.locator("#alts button").first.evaluate(sent, "ArrowDown")
    page.locator("#t-memory").click()
    page.locator("#msent").fill("The cat")
    sync_api.expect(page.locator("#mem i").first).to_be_visible()
    assert page.locator("#mem").evaluate(sent, "ArrowLeft")
    assert page.locator("#t-memory").evaluate(sent, "ArrowLeft")
    sync_api.expect(page.locator("#v-memory")).to_be_visible()


@pytest.mark.usefixtures("failing")
def test_a_continuation_that_fails_leaves_no_branch(page):
    write(page, "The cat sat")
    place_caret(page, 4)
    page.locator("#set").click()
    page.locator("#s-r").fill("[a-")
    page.locator("#go").click()
    sync_api.expect(page.locator("#e-r")).to_be_visible()
    assert text_of(page) == "The cat sat"
    assert page.locator("#branches").is_hidden()


def test_a_page_with_a_key_works_after_the_browser_has_asked_for_it(browser, page_runs):
    with running([page_runs["trained"]], api_key=KEY) as url:
        context = browser.new_context(http_credentials={"username": "any", "password": KEY})
        page = context.new_page()
        page.goto(url)
        write(page, "The cat")
        continue_text(page)
        context.close()
