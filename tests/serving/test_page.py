"""The routes of the page: readings of edited texts, next tokens, copies, memory and records."""

import json
import re
import threading

import numpy as np
import pytest
from conftest import TEXT
from starlette.testclient import TestClient

from charlm.data.tokenizer import EOS, UNK
from charlm.data.written_form import written_form
from charlm.errors import CharlmError
from charlm.evaluation.probes.memory import measure_memory
from charlm.evaluation.probes.passage import measure_passage
from charlm.model_texts import training_texts
from charlm.sampling.next_tokens import next_tokens
from charlm.sampling.options import Filters, NextOptions, SampleOptions, StopCondition
from charlm.sampling.sample import sample
from charlm.serving import reading, requests
from charlm.serving.app import make_app
from charlm.serving.endpoints import endpoints_of
from charlm.serving.next_token import predict_next
from charlm.serving.options import ServeOptions
from charlm.serving.page import Page
from charlm.serving.reading import Interrupted, Reader, StateCache
from charlm.serving.training_text import TrainingText
from charlm.trained_model import TrainedModel, load

READABLE = ("trained", "records", "documents", "bpe", "words", "spaced", "bytes", "folded")
TEXTS = {"records": "bana\nmelia\nki", "default": "The cat sat on the mat.\nThe dög slept on"}
HOSTILE = "<script>alert(1)</script>\u202e\u2028\"'&amp;\x00\ufeff e\u0301 🙂"


@pytest.fixture(scope="module")
def client(page_runs):
    app = make_app(list(page_runs.values()), ServeOptions())
    with TestClient(app, base_url="http://127.0.0.1:8765") as client:
        yield client


def ask(client, path, status=200, **body):
    response = client.post(f"/page/{path}", json=body)
    assert response.status_code == status, response.text
    return response.json()


def text_for(name):
    return TEXTS.get(name, TEXTS["default"])


def new_reader(trained):
    return Reader(trained, StateCache(1 << 24))


@pytest.mark.parametrize("name", READABLE)
def test_a_text_has_the_predictions_of_the_passage(page_runs, client, name):
    text = text_for(name)
    found = ask(client, "read", model=name, text=text)
    tokens = found["tokens"]
    assert "".join(token["text"] for token in tokens) + found["rest"] == text
    expected = measure_passage(page_runs[name], text).tokens
    for token, other in zip(tokens, expected, strict=False):
        assert token["token"] == other.token
        assert token["probability"] == pytest.approx(other.probability, rel=1e-4)
        assert token["rank"] == other.rank
        assert token["entropy_bits"] == pytest.approx(other.entropy_bits, rel=1e-4)
        assert [item["text"] for item in token["alternatives"][:3]] == [
            item.text for item in other.alternatives[:3]
        ]


@pytest.mark.parametrize("name", READABLE)
def test_a_text_read_from_the_edited_position_is_the_text_read_from_its_beginning(page_runs, name):
    trained = page_runs[name]
    reader = new_reader(trained)
    random = np.random.default_rng(3)
    text = text_for(name) * 5  # Several windows.
    tokens = reader.read(text).tokens
    for number in range(20):
        at = int(random.integers(len(text) + 1))
        end = min(len(text), at + int(random.integers(4)))
        pieces = ("the", " ", "cat \n", "é", "e\u0301", "🙂", "\n\n", "  dog's", "sat", "x", "")
        edited = text[:at] + pieces[int(random.integers(len(pieces)))] + text[end:]
        found = reader.read(edited, start=at)
        kept, position = [], 0
        for token in tokens:
            if position + len(token.text) > found.start:
                break
            position += len(token.text)
            kept.append(token)
        while kept and not kept[-1].text:
            kept.pop()
        text, tokens = edited, [*kept, *found.tokens]
        expected = new_reader(trained).read(text)
        assert [token.token for token in tokens] == [token.token for token in expected.tokens]
        assert [token.text for token in tokens] == [token.text for token in expected.tokens], number
        assert found.rest == expected.rest
        for token, other in zip(tokens, expected.tokens, strict=True):
            assert token.surprisal_bits == pytest.approx(other.surprisal_bits, rel=1e-3, abs=1e-4)


def test_an_edit_reads_only_what_follows_the_last_saved_state(page_runs, monkeypatch):
    reader = new_reader(page_runs["trained"])
    num_read = 0
    predict = reading.predict_window

    def counted(model, inputs, targets, states=None):
        nonlocal num_read
        num_read += len(inputs)
        return predict(model, inputs, targets, states)

    monkeypatch.setattr(reading, "predict_window", counted)
    text = TEXT[:1000]
    reader.read(text)
    assert num_read == 1000
    num_read = 0
    reader.read(text + "T", start=1000)
    assert num_read == 1
    num_read = 0
    reader.read(text[:500] + "x" + text[501:], start=500)
    assert num_read <= 1000 - 448
    num_read = 0
    predict_next(reader, text, 700, Filters())
    assert num_read <= 64


def test_a_text_is_divided_into_records_from_its_beginning(trained_records, monkeypatch):
    """As it is read: two separators that share a character are one separator and a character."""
    monkeypatch.setattr(TrainedModel, "record_separator", "aa")
    reader = new_reader(load(trained_records, "best", "cpu"))
    assert [row.token == EOS for row in reader.read("maaa").tokens] == [False, True, False]
    found, expected = (predict_next(reader, text, 4, Filters()) for text in ("maaa", "a"))
    assert found.candidates[0].token == expected.candidates[0].token
    assert found.entropy_bits == pytest.approx(expected.entropy_bits)


def test_saved_states_take_a_bounded_amount_of_memory(page_runs):
    states = page_runs["trained"].model.initial_states(1)
    size = sum(part.numel() * 4 for state in states for part in state)
    cache = StateCache(3 * size)
    for number in range(5):
        cache.put(bytes([number]), states)
    cache.put(bytes([4]), states)
    assert len(cache) == 3
    assert cache.get(bytes([0])) is None
    assert cache.get(bytes([4])) is not None


def test_a_reading_whose_client_has_gone_is_given_up(page_runs):
    calls = iter([False, True])
    with pytest.raises(Interrupted):
        new_reader(page_runs["trained"]).read(TEXT[:1000], is_interrupted=lambda: next(calls))


@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("end", ["", " "])
def test_the_next_tokens_are_those_of_charlm_sample_next(page_runs, client, name, end):
    text = {"records": "ba", "documents": "The cat" + end}.get(name, "The cat sat" + end)
    found = ask(client, "next", model=name, text=text)
    options = NextOptions(prompt=text, count=10, allow_unknown=True)
    expected = next_tokens(page_runs[name], options)
    expected = [token for token in expected.tokens if token.id != UNK]
    for row, other in zip(found["candidates"], expected, strict=False):
        assert row["model_probability"] == pytest.approx(other.probability, rel=1e-4)
    assert {row["token"] for row in found["candidates"][:3]} == {item.id for item in expected[:3]}
    assert found["actual"] is None
    assert found["start"] == len(text)


@pytest.mark.parametrize("name", ["bpe", "words"])
def test_a_token_after_a_space_adds_no_second_space(client, name):
    found = ask(client, "next", model=name, text="The cat sat on ")
    assert all(row["label"].startswith(" ") for row in found["candidates"] if row["probability"])
    assert not any(row["adds"].startswith(" ") for row in found["candidates"])


def test_words_that_spaces_separate_add_a_space_where_one_is_missing(client):
    after_word = ask(client, "next", model="spaced", text="The cat")["candidates"]
    after_space = ask(client, "next", model="spaced", text="The cat ")["candidates"]
    is_word = lambda row: row["label"].strip().isalpha()  # noqa: E731
    assert any(map(is_word, after_word))
    assert all(row["adds"] == row["label"] for row in after_word if is_word(row))
    assert all(row["adds"] == row["label"].strip() for row in after_space if is_word(row))


@pytest.mark.parametrize("name", READABLE)
def test_a_position_within_a_token_stands_for_the_token(client, name):
    text = text_for(name)
    tokens = ask(client, "read", model=name, text=text, alternatives=0)["tokens"]
    start, begun = 0, 0
    for number, token in enumerate(tokens):
        if not token["text"]:
            continue
        for at in range(start, start + len(token["text"])):
            found = ask(client, "next", model=name, text=text, at=at)
            assert (found["start"], found["actual"]["token"]) == (start, tokens[begun]["token"])
            probability = found["actual"]["model_probability"]
            assert probability == pytest.approx(tokens[begun]["probability"], rel=1e-3)
        start, begun = start + len(token["text"]), number + 1


def test_the_settings_change_the_distribution_and_not_the_models_own(client):
    plain = ask(client, "next", text="The cat sat")
    cold = ask(client, "next", text="The cat sat", temperature=0.5, top_p=0.5)
    greedy = ask(client, "next", text="The cat sat", temperature=0)
    own = [row["model_probability"] for row in plain["candidates"]]
    assert own == pytest.approx([row["model_probability"] for row in cold["candidates"]])
    assert [row["probability"] for row in plain["candidates"]] == pytest.approx(own, rel=1e-3)
    assert cold["possible"] < plain["possible"]
    assert cold["candidates"][0]["probability"] > own[0]
    assert greedy["possible"] == 1
    assert greedy["candidates"][0]["probability"] == 1


def test_tokens_that_continue_a_copy_are_excluded_by_a_copy_limit(client):
    text = "The cat sat on the"
    free = ask(client, "next", text=text, max_copy=100)
    limited = ask(client, "next", text=text, max_copy=10)
    by_label = {row["label"]: row["probability"] for row in limited["candidates"]}
    assert free["possible"] == free["writable"]
    assert by_label.get(" ", 0) == 0
    assert limited["possible"] < free["possible"]


def test_copied_passages_are_found_wherever_the_text_was_edited(page_runs, client):
    copied = TEXT[100:140]
    text = "Zebras " + copied + " zzz " + TEXT[500:510] + "qqq"
    found = ask(client, "copies", text=text)
    assert found["reason"] is None
    (span,) = found["spans"]
    assert text[slice(*span)].strip() == copied.strip()
    edited = text[:20] + "#" + text[20:]
    whole = ask(client, "copies", text=edited)
    part = ask(client, "copies", text=edited, start=20)
    assert [span for span in whole["spans"] if span[1] > part["start"]] == part["spans"]


@pytest.mark.parametrize("name", ["bpe", "words", "spaced", "folded"])
def test_copies_are_found_in_texts_of_words_and_subwords(client, name):
    text = "zebra zebra " + TEXT[200:260].strip() + " zebra"
    found = ask(client, "copies", model=name, text=text)
    (span,) = found["spans"]
    assert 40 <= span[1] - span[0] <= 64


def test_without_the_training_text_the_page_says_why_it_finds_no_copies(
    page_runs, tmp_path, monkeypatch
):
    def gone(trained):
        raise CharlmError("corpus.txt: no such file; name another one")

    monkeypatch.setattr("charlm.serving.training_text.training_texts", gone)
    app = make_app([page_runs["records"]], ServeOptions())
    with TestClient(app, base_url="http://127.0.0.1:8765") as client:
        found = ask(client, "copies", text="bana")
        assert found == {
            "start": 0,
            "spans": [],
            "reason": "corpus.txt: no such file; name another one",
        }
        records = ask(client, "records", count=2)
        assert records["reason"] == found["reason"]
        assert [record["is_new"] for record in records["records"]] == [None, None]


def test_the_error_of_a_missing_training_text_keeps_no_frames_of_earlier_requests(page_runs):
    def no_index():
        raise CharlmError("corpus.txt: no such file; name another one")

    training = TrainingText(page_runs["records"], no_index)
    frames = []
    for _ in range(3):
        with pytest.raises(CharlmError) as caught:
            training.is_new_record([2])
        frames.append(len(caught.traceback))
    assert frames[2] == frames[1]


def test_the_memory_is_that_of_the_measurement_and_names_no_path(page_runs, client):
    found = ask(client, "memory", text="The cat sat.")
    expected = measure_memory(page_runs["trained"], "The cat sat.")
    assert [row["token"] for row in found["predictions"]] == [
        row.token for row in expected.predictions
    ]
    assert found["predictions"][5]["squared_norms"] == pytest.approx(
        expected.predictions[5].squared_norms
    )
    assert found["settings"]["run"] == "trained"


def test_records_are_samples_and_new_if_the_training_text_lacks_them(page_runs, client):
    trained = page_runs["records"]
    found = ask(client, "records", model="records", count=20, seed=3, temperature=0.5)
    options = SampleOptions(
        stop=StopCondition(length=200), filters=Filters(temperature=0.5), count=20, seed=3
    )
    written = sample(trained, options)
    assert [record["text"] for record in found["records"]] == [record.text for record in written]
    train = training_texts(trained)["train"]
    known = set(written_form(train, trained.tokenizer, records=True).decode().split("\n"))
    for record in found["records"]:
        assert record["is_new"] == (record["text"] not in known)
    assert {record["is_new"] for record in found["records"]} == {True, False}
    assert found["records"][0]["log_probability"] == pytest.approx(written[0].log_probability)


def test_a_run_without_records_says_so(client):
    error = ask(client, "records", status=400, model="trained")["error"]
    assert "one long text" in error["message"]
    assert error["param"] == "model"


@pytest.mark.parametrize(
    ("name", "words"), [("backward", "from the end to the beginning"), ("both", "both directions")]
)
def test_models_that_read_otherwise_are_refused_with_a_reason(client, name, words):
    for path in ("read", "next", "copies", "memory"):
        error = ask(client, path, status=400, model=name, text="The cat")["error"]
        assert words in error["message"]
    runs = {run["name"]: run for run in client.get("/page/runs").json()["runs"]}
    assert words in runs[name]["unavailable"]["write"]
    assert runs[name]["unavailable"]["score"] is None
    assert runs["trained"]["unavailable"]["write"] is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("read", {"text": "x" * 20_001}),
        ("read", {"text": "x", "start": -1}),
        ("read", {"text": "x", "start": True}),
        ("read", {"text": 3}),
        ("read", {"text": "x", "alternatives": 11}),
        ("read", {"text": "x", "colour": 1}),
        ("read", {"text": "\ud800"}),
        ("next", {"text": "x", "temperature": -1}),
        ("next", {"text": "x", "top_p": 2}),
        ("next", {"text": "x", "max_copy": 0}),
        ("next", {"text": "x", "at": 10**30}),
        ("copies", {"text": "x", "min_characters": 0}),
        ("memory", {"text": "x" * 2001}),
        ("memory", {"text": ""}),
        ("memory", {"text": "x"}),
        ("records", {"count": 101}),
        ("records", {"seed": -1}),
        ("records", {"max_tokens": 10**9}),
    ],
)
def test_a_wrong_request_is_answered_with_an_error_object(client, path, body):
    if path == "records":
        body["model"] = "records"
    response = client.post(f"/page/{path}", content=json.dumps(body))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("name", READABLE)
def test_no_text_makes_the_server_fail(client, name):
    for text in (
        "",
        " ",
        "\n",
        "\n\n",
        HOSTILE,
        "\u0301",
        "🙂",
        " " * 300,
        "\r\n",
        "<EOS>",
        "<UNK>",
    ):
        found = ask(client, "read", model=name, text=text)
        assert "".join(token["text"] for token in found["tokens"]) + found["rest"] == text
        for at in (0, 1, len(text), len(text) + 5):
            ask(client, "next", model=name, text=text, at=at, temperature=0.5, no_repeat_ngram=2)
        ask(client, "copies", model=name, text=text, start=len(text) // 2)


def test_an_unknown_run_is_an_error_that_names_the_runs(client):
    error = ask(client, "read", status=404, model="nothing", text="x")["error"]
    assert "trained" in error["message"]


def test_too_many_waiting_requests_are_refused(client, monkeypatch):
    monkeypatch.setattr(requests, "_MAX_REQUESTS", 0)
    error = ask(client, "read", status=429, text="x")["error"]
    assert error["type"] == "rate_limit_error"


def test_many_requests_at_once_are_answered_alike(client):
    expected = ask(client, "read", text=TEXT[:300])
    results = [None] * 8

    def read(number):
        results[number] = client.post("/page/read", json={"text": TEXT[:300]}).json()

    threads = [threading.Thread(target=read, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == expected for result in results)


def test_the_page_and_its_files_have_nothing_inline_and_nothing_from_elsewhere(client):
    html = client.get("/")
    assert html.headers["content-type"].startswith("text/html")
    assert "'unsafe" not in html.headers["content-security-policy"]
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*src=)", html.text)
    links = re.findall(r'(?:src|href)="([^"]*)"', html.text)
    for link in links:
        if link.startswith(("#", "data:")):
            continue
        response = client.get(link)
        assert response.status_code == 200
        assert "http" not in re.sub(r"http-equiv", "", response.text)
        for name in re.findall(r"from '\./([a-z.]+)'", response.text):
            assert client.get(f"/assets/{name}").status_code == 200
    script = "".join(
        client.get(route.path).text
        for route in Page(client.app.state.models).files()
        if route.path.endswith(".js")
    )
    assert "innerHTML" not in script
    assert "eval(" not in script


def test_every_route_of_the_page_needs_the_key_of_the_server(page_runs):
    options = ServeOptions(api_key="0123456789abcdef0123")
    app = make_app([page_runs["trained"]], options)
    with TestClient(app, base_url="http://127.0.0.1:8765") as client:
        page = Page(app.state.models)
        routes = [(route.path, "GET") for route in page.files()]
        routes += [(endpoint.path, endpoint.method) for endpoint in endpoints_of(page)]
        assert len(routes) > 12
        for path, method in routes:
            assert client.request(method, path).status_code == 401, path
            right = {"Authorization": "Bearer 0123456789abcdef0123"}
            assert client.request(method, path, headers=right).status_code != 401
