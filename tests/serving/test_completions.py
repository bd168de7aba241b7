"""`/v1/completions` and the other routes: the same texts and scores as on this machine."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import small_config, train_all
from serving.servers import loaded
from starlette.testclient import TestClient

from charlm.api import load
from charlm.evaluation.sentences import score_sentences
from charlm.evaluation.static_model import of_trained
from charlm.serving.app import make_app
from charlm.serving.options import ServeOptions


@pytest.fixture(scope="module")
def run(trained):
    return load(trained, device="cpu")


@pytest.fixture(scope="module")
def records(trained_records):
    return load(trained_records, device="cpu")


def complete(client, **fields) -> dict:
    response = client.post("/v1/completions", json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def text_of(client, **fields) -> str:
    (choice,) = complete(client, **fields)["choices"]
    return choice["text"]


def parts_of(client, **fields) -> list[dict]:
    response = client.post("/v1/completions", json=fields | {"stream": True})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    *parts, end, rest = response.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def error_of(client, status: int = 400, **fields) -> dict:
    response = client.post("/v1/completions", json=fields)
    assert response.status_code == status, response.text
    return response.json()["error"]


def local_text(run, **options) -> str:
    return run.sample(**options)[0].text


def test_greedy_text_is_that_of_a_local_run(client, run):
    found = text_of(client, prompt="The cat", temperature=0, max_tokens=40, echo=True)
    assert found == local_text(run, prompt="The cat", temperature=0, length=40)


def test_a_seed_gives_the_text_of_a_local_run_alone_together_and_streamed(client, run):
    fields = {"prompt": "The ", "max_tokens": 30, "temperature": 0.9, "echo": True}
    expected = {
        seed: local_text(run, prompt="The ", length=30, temperature=0.9, seed=seed)
        for seed in range(50)
    }
    assert len(set(expected.values())) > 10
    assert text_of(client, seed=3, **fields) == expected[3]
    assert (
        "".join(
            part["choices"][0]["text"]
            for part in parts_of(client, seed=3, **fields)
            if part["choices"]
        )
        == expected[3]
    )
    with ThreadPoolExecutor(50) as threads:
        found = dict(
            threads.map(lambda seed: (seed, text_of(client, seed=seed, **fields)), expected)
        )
    assert found == expected


def test_prompts_may_be_texts_ids_and_lists_of_both(client, run):
    ids = run.tokenizer.encode("The ").tolist()
    fields = {"max_tokens": 5, "temperature": 0}
    expected = text_of(client, prompt="The ", **fields)
    assert text_of(client, prompt=ids, **fields) == expected
    assert text_of(client, prompt=["The "], **fields) == expected
    assert text_of(client, prompt=[ids], **fields) == expected
    both = complete(client, prompt=["The ", "A"], n=2, seed=1, max_tokens=5)["choices"]
    assert [choice["index"] for choice in both] == [0, 1, 2, 3]
    assert [choice["number"] for choice in both] == [0, 1, 0, 1]
    alone = complete(client, prompt="A", n=2, seed=1, max_tokens=5)["choices"]
    assert [choice["text"] for choice in both[2:]] == [choice["text"] for choice in alone]


def test_without_options_sixteen_tokens_are_written(client):
    answer = complete(client, prompt="The ")
    assert answer["usage"] == {"prompt_tokens": 4, "completion_tokens": 16, "total_tokens": 20}
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")


def test_scores_of_a_prompt_are_those_of_an_evaluation(client, run):
    text = "The old owl sang on the roof.\n"
    ids = run.tokenizer.encode(text)
    expected = of_trained(run.trained).log_probabilities(ids)
    for fields in ({"max_tokens": 0}, {"max_tokens": 1, "temperature": 0}):
        (choice,) = complete(client, prompt=text, echo=True, logprobs=3, **fields)["choices"]
        scores = choice["logprobs"]
        num_new = fields["max_tokens"]
        assert len(scores["tokens"]) == len(ids) + num_new
        assert scores["token_logprobs"][0] is None and scores["top_logprobs"][0] is None
        assert scores["token_logprobs"][1 : len(ids)] == pytest.approx(expected[1:], abs=1e-5)
        assert choice["text"].startswith(text)
        assert "".join(scores["tokens"]) == choice["text"]


def test_an_end_of_text_before_a_prompt_is_read_once_and_makes_its_first_token_scored(client, run):
    text = "The cat"
    ids = [0, *run.tokenizer.encode(text).tolist()]
    expected = of_trained(run.trained).log_probabilities(run.tokenizer.encode(text))
    for prompt in (ids, "<EOS>The cat"):
        answer = complete(client, prompt=prompt, echo=True, logprobs=0, max_tokens=0)
        scores = answer["choices"][0]["logprobs"]
        assert scores["tokens"][0] == "<EOS>" and scores["token_logprobs"][0] is None
        assert scores["token_logprobs"][1:] == pytest.approx(expected, abs=1e-5)
        assert scores["top_logprobs"] is None
        assert answer["usage"]["prompt_tokens"] == len(ids)


def test_the_token_itself_is_among_the_most_probable_with_exactly_its_value(client):
    fields = {"prompt": "owl mat.", "echo": True, "logprobs": 1, "max_tokens": 8, "seed": 1}
    scores = complete(client, **fields)["choices"][0]["logprobs"]
    rows = zip(
        scores["tokens"][1:], scores["token_logprobs"][1:], scores["top_logprobs"][1:], strict=True
    )
    for token, value, top in rows:
        assert top[token] == value
        assert 1 <= len(top) <= 2


def test_offsets_are_positions_in_the_text_also_in_a_stream(client):
    for echo in (False, True):
        fields = {"prompt": "The ", "max_tokens": 6, "logprobs": 0, "seed": 2, "echo": echo}
        (choice,) = complete(client, **fields)["choices"]
        scores = choice["logprobs"]
        for token, offset in zip(scores["tokens"], scores["text_offset"], strict=True):
            assert choice["text"][offset:].startswith(token)
        parts = [part["choices"][0] for part in parts_of(client, **fields)]
        for name in ("tokens", "token_logprobs", "text_offset"):
            assert [v for part in parts for v in part["logprobs"][name]] == scores[name]


def test_a_stop_text_is_not_part_of_the_text_unless_it_is_asked_for(client, run):
    fields = {"prompt": "The ", "temperature": 0.9, "seed": 1, "max_tokens": 60}
    whole = text_of(client, **fields)
    # A text that is not written earlier.
    texts = {at: whole[at : at + 3] for at in range(8, 50)}
    end, stop = next(
        item for item in texts.items() if ("The " + whole).index(item[1]) == item[0] + 4
    )
    answer = complete(client, stop=[stop, "never"], **fields)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == (whole[:end], "stop")
    streamed = [part["choices"][0] for part in parts_of(client, stop=stop, **fields)]
    assert "".join(part["text"] for part in streamed) == whole[:end]
    assert streamed[-1]["finish_reason"] == "stop"
    kept = text_of(client, stop=stop, include_stop_str_in_output=True, **fields)
    assert kept == whole[: end + len(stop)]
    local = {"temperature": 0.9, "seed": 1, "length": 60, "until": [stop]}
    assert "The " + kept == local_text(run, prompt="The ", **local)


def test_only_new_text_is_searched_for_stop_texts(client):
    assert len(text_of(client, prompt="The cat", stop=["The", "cat"], max_tokens=3)) > 0


def test_records_end_with_their_end_token(client, records):
    name = records.folder.name
    fields = {"model": name, "prompt": "", "seed": 4, "temperature": 0.8, "max_tokens": 50}
    answer = complete(client, logprobs=2, return_token_ids=True, **fields)
    (choice,) = answer["choices"]
    (local,) = records.sample(seed=4, length=50)
    assert choice["text"] == local.text and choice["finish_reason"] == "stop"
    assert choice["token_ids"] == [*local.tokens, 0]
    assert choice["logprobs"]["tokens"][-1] == "<EOS>"
    total = math.fsum(choice["logprobs"]["token_logprobs"])
    assert total == pytest.approx(local.log_probability)
    assert answer["usage"]["completion_tokens"] == len(local.tokens) + 1


def test_the_best_of_candidates_is_that_of_a_local_run(client, run):
    fields = {"prompt": "The ", "seed": 5, "temperature": 0.8, "max_tokens": 20, "echo": True}
    answer = complete(client, best_of=6, **fields)
    (choice,) = answer["choices"]
    (local,) = run.sample(prompt="The ", seed=5, length=20, best_of=6)
    assert (choice["text"], choice["number"]) == (local.text, local.number)
    assert choice["logprobs"] is None
    assert answer["usage"]["completion_tokens"] == 120
    two = complete(client, best_of=6, n=2, **fields)["choices"]
    assert two[0]["text"] == local.text and two[1]["number"] != two[0]["number"]


def test_several_texts_are_streamed_side_by_side(client):
    fields = {"prompt": ["The ", "A"], "n": 2, "seed": 1, "max_tokens": 6}
    whole = complete(client, **fields)["choices"]
    found = dict.fromkeys(range(4), "")
    for part in parts_of(client, **fields):
        for choice in part["choices"]:
            found[choice["index"]] += choice["text"]
    assert list(found.values()) == [choice["text"] for choice in whole]


def test_a_stream_states_the_usage_in_a_part_without_choices_if_it_is_asked_for(client):
    fields = {"prompt": "The ", "max_tokens": 3}
    asked = parts_of(client, stream_options={"include_usage": True}, **fields)
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"] == {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    assert all(part["usage"] is None for part in asked[:-1])
    assert all(part["choices"] for part in parts_of(client, **fields))


def test_a_state_continues_a_text_as_if_it_had_never_stopped(client):
    fields = {"temperature": 0.9, "seed": 6}
    whole = text_of(client, prompt="The ", max_tokens=30, **fields)
    text, state = "", True
    for number in range(3):
        prompt = {"prompt": "The "} if number == 0 else {}
        (choice,) = complete(client, state=state, max_tokens=10, **prompt, **fields)["choices"]
        text += choice["text"]
        state = choice["state"]
    assert text == whole
    assert error_of(client, state="state-of-nobody")["param"] == "state"
    assert error_of(client, state=True, n=2)["code"] == "invalid_value"
    assert error_of(client, state=state, prompt=["a", "b"])["param"] == "state"


def test_an_error_separates_the_field_and_its_problem(client):
    for fields, message in [
        ({"prompt": 5}, "prompt: must be a text, texts, token ids or lists of them, got 5"),
        ({"prompt": []}, "prompt: must be a text, texts, token ids or lists of them, got []"),
        (
            {"prompt": "a", "logit_bias": {"x": 1}},
            "logit_bias: must have token ids as keys, got 'x",
        ),
    ]:
        assert error_of(client, **fields)["message"].startswith(message)


def test_every_option_of_sampling_has_the_effect_of_a_local_run(client, run):
    cases = [
        ({"top_k": 2}, {"top_k": 2}),
        ({"top_k": -1}, {}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"min_p": 0.3}, {"min_p": 0.3}),
        ({"typical_p": 0.4}, {"typical": 0.4}),
        ({"epsilon": 0.1}, {"epsilon": 0.1}),
        ({"eta": 0.1}, {"eta": 0.1}),
        ({"repetition_penalty": 3.0}, {"repetition_penalty": 3.0}),
        (
            {"repetition_penalty": 3.0, "repetition_window": 2},
            {"repetition_penalty": 3.0, "repetition_window": 2},
        ),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram": 2}),
        ({"presence_penalty": 2}, {"presence_penalty": 2}),
        ({"frequency_penalty": -1}, {"frequency_penalty": -1}),
        ({"logit_bias": {"5": 4.5}}, {"logit_bias": ((5, 4.5),)}),
        ({"regex": "(cat|dog)s? sat\\."}, {"matching": "(cat|dog)s? sat\\."}),
        ({"ban": ["t"]}, {"ban": ["t"]}),
        ({"characters": 7}, {"characters": 7}),
    ]
    plain = local_text(run, prompt="The ", length=25, temperature=1.0, seed=7)
    for fields, options in cases:
        found = text_of(client, prompt="The ", echo=True, max_tokens=25, seed=7, **fields)
        local = local_text(run, prompt="The ", length=25, temperature=1.0, seed=7, **options)
        assert found == local, fields
        if options and "typical" not in options:
            assert found != plain, fields


def test_no_long_passage_is_copied_from_the_training_text(client, run):
    fields = {"prompt": "The ", "echo": True, "max_tokens": 40, "temperature": 0.3, "seed": 7}
    local = local_text(run, prompt="The ", length=40, temperature=0.3, seed=7, max_copy=4)
    assert text_of(client, max_copy=4, **fields) == local != text_of(client, **fields)


def test_what_cannot_be_is_refused_with_the_name_of_the_field(client):
    cases = [
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 900}, "n"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"n": 1, "best_of": 2, "stream": True}, "best_of"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]], "echo": 1}, "echo"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": "a" * 2001}, "prompt"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"stop": [1]}, "stop"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"3": 101}}, "logit_bias"),
        ({"logit_bias": {"99999": 1}}, "logit_bias"),
        ({"regex": "("}, "regex"),
        ({"regex": "a", "stop": "b"}, "stop"),
        ({"seed": -1}, "seed"),
        ({"logprobs": 101}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"length_penalty": 1}, "length_penalty"),
        ({"prompt": "Ž", "allow_unknown": False}, "prompt"),
        ({"stop": "Ž", "allow_unknown": False}, "stop"),
        ({"suffix": "end"}, "suffix"),
        ({"top_kk": 1}, "top_kk"),
    ]
    for fields, param in cases:
        error = error_of(client, **({"prompt": "The "} | fields))
        assert error["param"] == param, (fields, error)
        assert error["type"] == "invalid_request_error"
        assert error["message"].count("\n") == 0
    problem = error_of(client, prompt="The ", stop=["a", ""])["message"]
    assert problem == "stop: must have at least 1 character, got ''"


def test_fields_that_change_no_text_are_ignored_and_so_are_unknown_nulls(client):
    fields = {"prompt": "The ", "temperature": 0}
    expected = text_of(client, **fields)
    assert text_of(client, user="me", store=False, metadata={}, suffix=None, **fields) == expected


def test_an_unknown_model_is_not_found(client):
    error = error_of(client, 404, model="nobody", prompt="a")
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert client.get("/v1/models/nobody").status_code == 404


def test_the_models_are_listed_by_the_names_of_their_folders(client, run, records):
    models = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in models] == [run.folder.name, records.folder.name]
    assert client.get(f"/v1/models/{models[1]['id']}").json() == models[1]
    assert models[1]["record_separator"] == "\n"


def test_chats_are_answered_with_the_route_for_texts(client):
    response = client.post("/v1/chat/completions", json={"messages": []})
    assert response.status_code == 404
    assert "/v1/completions" in response.json()["error"]["message"]


def test_tokens_of_a_text_and_texts_of_tokens(client, run):
    assert client.get("/tokenizer_info").json() == {
        "eos_token": "<EOS>",
        "bos_token": None,
        "pad_token": None,
        "chat_template": None,
    }

    name = run.folder.name

    def tokenize(text: str) -> list[int]:
        body = {"prompt": text, "add_special_tokens": False, "model": name}
        answer = client.post("/tokenize", json=body).json()
        assert answer["count"] == len(answer["tokens"]) and answer["max_model_len"] == 2000
        return answer["tokens"]

    assert tokenize("<EOS>") == [0]
    assert tokenize("aŽ") == [*run.tokenizer.encode("a").tolist(), 1]
    for text in ("The cat", "<EOS>The", ""):
        body = {"tokens": tokenize(text), "model": name}
        assert client.post("/detokenize", json=body).json() == {"prompt": text}
    wrong = {"tokens": [-1], "model": name}
    assert client.post("/detokenize", json=wrong).json()["error"]["param"] == "tokens"


def test_token_ids_of_several_runs_need_the_name_of_one(client):
    """A harness that leaves it out would score one run with the tokens of another."""
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [2]})):
        response = client.post(path, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "model"


def test_scores_of_sentences_are_those_of_the_command(client, run):
    sentences = ["The cat sat on the mat.", "The cat mat on the sat."]
    answer = client.post("/v1/score", json={"sentences": sentences, "explain": True}).json()
    expected = score_sentences(run.trained, sentences, explain=True).to_json()
    assert answer["sentences"] == expected["sentences"]
    assert answer["settings"] == expected["settings"] | {"run": run.folder.name}


def test_metrics_count_tokens_and_requests(client):
    complete(client, prompt="The ", max_tokens=7)
    client.get("/no-such-route/with-a-name")
    text = client.get("/metrics").text
    name = client.get("/v1/models").json()["data"][0]["id"]
    assert f'charlm_tokens_total{{kind="completion",model="{name}"}}' in text
    assert 'charlm_requests_total{route="other",status="404"}' in text
    assert "no-such-route" not in text


def test_a_server_that_shuts_down_says_so(trained):
    app = make_app(loaded(trained), ServeOptions())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        app.state.models.close()
        for stream in (False, True):
            error = error_of(client, 503, prompt="The ", stream=stream)
            assert (error["type"], error["code"]) == ("server_error", "shutting_down")


@pytest.mark.parametrize("level", ["byte", "word", "bpe"])
def test_other_tokens_give_the_texts_and_scores_of_a_local_run(level, text_file, tmp_path):
    overrides = [f"tokenizer.level={level}", "training.steps=4"]
    overrides += ["tokenizer.vocabulary_size=280"] if level == "bpe" else []
    train_all(small_config(text_file, *overrides), tmp_path / level)
    run = load(tmp_path / level, device="cpu")
    app = make_app(loaded(tmp_path / level), ServeOptions())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        for prompt in ("The cat", "The cat ", ""):
            fields = {"prompt": prompt, "max_tokens": 20, "temperature": 0.8, "echo": True}
            found = text_of(client, seed=1, **fields)
            assert found == local_text(run, prompt=prompt, length=20, seed=1)
        fields = {"prompt": "The owl", "max_tokens": 4, "echo": True, "logprobs": 100, "seed": 1}
        (choice,) = complete(client, **fields)["choices"]
        for token, value, top in zip(
            *(
                choice["logprobs"][name][1:]
                for name in ("tokens", "token_logprobs", "top_logprobs")
            ),
            strict=True,
        ):
            # Bytes that are no whole character have names of their own.
            assert len(top) >= min(100, run.tokenizer.vocabulary_size)
            assert top[token] == value
