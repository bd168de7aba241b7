"""OpenAI's client, and requests as other programs send them."""

import json
import threading
from collections.abc import Iterator

import httpx
import openai
import pytest
from serving.servers import KEY, loaded, running

from charlm.api import load
from charlm.serving.options import ServeOptions
from charlm.serving.server import Server


@pytest.fixture(scope="module")
def server(trained, trained_records) -> Iterator[str]:
    with running(loaded(trained, trained_records), api_key=KEY, max_text=2000) as url:
        yield url


@pytest.fixture(scope="module")
def client(server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def model(client) -> str:
    return client.models.list().data[0].id


@pytest.fixture(scope="module")
def run(trained):
    return load(trained, device="cpu")


def test_a_completion_is_that_of_a_local_run(client, model, run):
    found = client.completions.create(model=model, prompt="The ", temperature=0, max_tokens=20)
    assert (
        "The " + found.choices[0].text
        == run.sample(prompt="The ", temperature=0, length=20)[0].text
    )
    assert found.object == "text_completion" and found.model == model
    assert found.choices[0].finish_reason == "length"
    assert found.usage.prompt_tokens == 4 and found.usage.completion_tokens == 20


def test_a_streamed_completion_is_the_same_text(client, model):
    fields = {"model": model, "prompt": "The ", "max_tokens": 400, "seed": 3}
    whole = client.completions.create(**fields).choices[0]
    options = {"include_usage": True}
    parts = list(client.completions.create(stream=True, stream_options=options, **fields))
    assert "".join(part.choices[0].text for part in parts if part.choices) == whole.text
    assert len(parts) > 3
    assert parts[-1].choices == [] and parts[-1].usage.completion_tokens == 400
    assert parts[-2].choices[0].finish_reason == "length"


def test_several_texts_logprobs_echo_and_stop(client, model):
    found = client.completions.create(
        model=model, prompt=["The cat", "T"], n=2, logprobs=2, echo=True, stop=["."], seed=1
    )
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    for choice in found.choices:
        assert choice.text.startswith(("The cat", "T"))
        assert choice.logprobs.token_logprobs[0] is None
        assert choice.logprobs.top_logprobs[0] is None
        assert "." not in choice.text.removeprefix("The cat")
        offsets = choice.logprobs.text_offset
        assert offsets == sorted(offsets) and offsets[0] == 0
        assert len(offsets) == len(choice.logprobs.tokens)


def test_errors_arrive_as_exceptions_of_the_client(client, server, model):
    def create(**fields):
        return client.completions.create(**({"model": model, "prompt": "The "} | fields))

    with pytest.raises(openai.BadRequestError) as caught:
        create(max_tokens=-1)
    assert (caught.value.param, caught.value.code) == ("max_tokens", "invalid_value")
    assert "must be at least 0" in caught.value.message
    with pytest.raises(openai.BadRequestError):
        create(extra_body={"no_such_field": 1})
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="nobody")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="/v1/completions"):
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "a"}])
    with pytest.raises(openai.BadRequestError):
        create(stream=True, max_tokens=5000)
    with (
        openai.OpenAI(base_url=f"{server}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_a_busy_server_is_a_rate_limit_error(trained):
    with (
        running(loaded(trained), max_streams=1, max_queue=1) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        fields = {"model": "", "prompt": "The ", "max_tokens": 100_000, "stream": True}
        fields["model"] = client.models.list().data[0].id
        first = client.completions.create(**fields)
        next(iter(first))
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(**fields | {"n": 2})
        assert caught.value.response.headers["retry-after"] == "1"
        first.close()


def test_a_stream_that_is_cut_when_the_server_stops_raises(trained):
    server = Server(loaded(trained), ServeOptions(port=0, grace_seconds=0.2))
    thread = threading.Thread(target=server.run)
    thread.start()
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        name = client.models.list().data[0].id
        parts = client.completions.create(
            model=name, prompt="The ", max_tokens=900_000, stream=True
        )
        next(iter(parts))
        server.stop()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(parts)
    thread.join()


# Bodies as the programs send them: `OpenAI` of langchain-openai, and a model entry of llm with
# `completion: true`.
LANGCHAIN = {
    "prompt": ["The cat", "A dog"],
    "temperature": 0.7,
    "max_tokens": 12,
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "n": 1,
    "best_of": 1,
    "logit_bias": None,
    "seed": None,
    "logprobs": None,
    "stop": ["\n"],
    "stream": False,
    "user": "me",
}
LLM = {
    "prompt": "The cat",
    "stream": True,
    "max_tokens": 12,
    "temperature": 0.7,
    "stream_options": {"include_usage": True},
    "logprobs": 2,
}


def test_requests_of_langchain_and_llm_are_answered(server, model):
    headers = {"Authorization": f"Bearer {KEY}"}
    many = LANGCHAIN | {"prompt": ["The "] * 20, "n": 2, "best_of": 3}
    for body, texts in ((LANGCHAIN, 2), (many, 40)):
        found = httpx.post(
            f"{server}/v1/completions", json=body | {"model": model}, headers=headers
        )
        assert found.status_code == 200, found.text
        assert len(found.json()["choices"]) == texts
        assert all("\n" not in choice["text"] for choice in found.json()["choices"])
    streamed = httpx.post(f"{server}/v1/completions", json=LLM | {"model": model}, headers=headers)
    *parts, end = [
        line.removeprefix("data: ") for line in streamed.text.split("\n") if line.startswith("data")
    ]
    assert end == "[DONE]" and json.loads(parts[-1])["usage"]["completion_tokens"] == 12
