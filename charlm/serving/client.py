"""`charlm.connect`: a run on a server, used like a run on this machine."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from charlm.config.values import checked
from charlm.errors import BusyError, CharlmError, OptionError, UnsupportedOptionError, quote
from charlm.sampling.options import (
    DEFAULT_LENGTH,
    TEXT_SEPARATOR,
    SampleOptions,
    build_options,
    check_stream,
)
from charlm.serving.options import check_api_key, is_loopback
from charlm.serving.schemas import MAX_CHOICES, OPTION_OF
from charlm.storage.results import ResultList
from charlm.storage.untrusted import one_line
from charlm.version import install_hint

try:
    import httpx
except ModuleNotFoundError as missing:
    raise CharlmError(
        f"charlm.connect: needs httpx, which is not installed: {install_hint('client')}"
    ) from missing

if TYPE_CHECKING:  # They import torch.
    from charlm.evaluation.sentences import Sentences
    from charlm.sampling.sample import Sample

_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 600.0  # A long text takes minutes, and more if others are written, too.
_EOS = 0


@checked
def connect(url: str, *, model: str | None = None, api_key: str | None = None) -> "RemoteRun":
    """Return a run on a server that `charlm serve` has started.

        run = charlm.connect("http://127.0.0.1:8765")
        print(run.sample(prompt="The ", length=100)[0].text)

    Args:
        url: Address of the server.
        model: Name of the run; None takes the first one.
        api_key: Key of the server, if it needs one.

    Raises:
        CharlmError: No server answers, it is no charlm server, it refuses the key, or it has no
            such run.
        OptionError: The address or the key cannot be one.
    """
    connection = Connection(_base_of(url), api_key)
    health = connection.get("/health")
    if health.get("server") != "charlm":
        raise CharlmError(f"{connection.url}: is no server of charlm; check the address")
    models = connection.get("/v1/models")["data"]
    found = [info for info in models if model in (None, info["id"])]
    if not found:
        names = ", ".join(str(info["id"]) for info in models)
        message = f"{connection.url}: has no run {quote(str(model))}, but {names}"
        raise CharlmError(one_line(message))
    return RemoteRun(connection, found[0])


@dataclass(frozen=True)
class RemoteRun:
    """A run on a server.

    Attributes:
        connection: Connection to the server.
        info: What the server says about the run.
    """

    connection: "Connection"
    info: Mapping[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return str(self.info["id"])

    @property
    def writes_records(self) -> bool:
        """Whether the model ends a text with <EOS>."""
        return bool(self.info["mode"] == "records")

    @property
    def record_separator(self) -> str | None:
        """What the corpus has between two records; None if it has nothing, or no records."""
        separator = self.info["record_separator"]
        return None if separator is None else str(separator)

    @property
    def facts(self) -> dict[str, Any]:
        """Address and name of the run, and its step."""
        return {"run": f"{self.connection.url} {self.name}", "step": self.info["step"]}

    def sample(self, **options: Any) -> "ResultList[Sample]":
        """Write texts; options as for `charlm.load(...).sample`, except those of a run's files."""
        return self.write(build_options(SampleOptions, options))

    def stream(self, **options: Any) -> Iterator[str]:
        """Write one text, yielding the prompt and then each piece; options as for `sample`."""
        given = build_options(SampleOptions, options)
        check_stream(given)
        return self.write_stream(given)

    @checked
    def sentences(self, sentences: Sequence[str], *, explain: bool = False) -> "Sentences":
        """Score sentences, each by itself; as `charlm.load(...).sentences`."""
        from charlm.evaluation.sentences import Sentence, Sentences, TokenScore

        given = [sentences] if isinstance(sentences, str) else list(sentences)
        body = {"model": self.name, "sentences": given, "explain": explain}
        answer = self.connection.post("/v1/score", body)
        scores = []
        for values in answer["sentences"]:
            explained = values.pop("explained")
            tokens = None if explained is None else [TokenScore(**token) for token in explained]
            scores.append(Sentence(**values, explained=tokens))
        return Sentences(scores, answer["settings"])

    def write(self, options: SampleOptions) -> "ResultList[Sample]":
        """Write texts.

        Raises:
            UnsupportedOptionError: An option needs the run on this machine, or does not suit it.
            CharlmError: The server cannot be reached, or refuses.
        """
        body = request_of(options) | {"model": self.name, "return_token_ids": True}
        if options.scored:
            body["logprobs"] = 0
        answer = self.connection.post("/v1/completions", body)
        num_prompt = answer["usage"]["prompt_tokens"]
        samples = (
            self._sample(options, choice, num_prompt, answer["seed"])
            for choice in sorted(answer["choices"], key=lambda choice: choice["index"])
        )
        return ResultList(samples, separator=self.record_separator or TEXT_SEPARATOR)

    def write_stream(self, options: SampleOptions) -> Iterator[str]:
        """Write one text, yielding its pieces; errors as for `write`."""
        body = request_of(options) | {"model": self.name, "stream": True}
        for part in self.connection.stream("/v1/completions", body):
            for choice in part["choices"]:
                if choice["text"]:
                    yield choice["text"]

    def _sample(
        self, options: SampleOptions, choice: Mapping[str, Any], num_prompt: int, seed: int
    ) -> "Sample":
        from charlm.sampling.sample import Sample

        ids = choice["token_ids"][num_prompt:]
        scores = choice["logprobs"]["token_logprobs"][num_prompt:] if options.scored else []
        ended = self.writes_records and ids[-1:] == [_EOS]
        tokens = ids[:-1] if ended else ids
        return Sample(
            number=choice["number"],
            prompt=options.prompt,
            text=choice["text"],
            tokens=tokens,
            ended=ended,
            log_probabilities=scores[: len(tokens)],
            log_probability=sum(scores) if options.scored else None,
            seed=seed,
        )


class Connection:
    """A connection to a server of charlm.

    Attributes:
        url: Address of the server.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        """Prepare a connection; nothing is sent yet."""
        self.url = url
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        if api_key is not None:
            check_api_key(api_key)
        self._client = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            # Nothing has to be closed after a request.
            limits=httpx.Limits(max_keepalive_connections=0),
            # A proxy of the environment cannot reach this machine's own addresses.
            trust_env=not is_loopback(urlsplit(url).hostname or ""),
        )

    def __repr__(self) -> str:
        """Return the address, without the key."""
        return f"Connection({self.url!r})"

    def get(self, path: str) -> dict[str, Any]:
        """Return the object that a route answers with; errors as for `post`."""
        with self._errors():
            return self._object(self._client.get(path))

    def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the object that a route answers with.

        Raises:
            OptionError: The server refuses an option.
            CharlmError: The server cannot be reached, or refuses the request.
        """
        with self._errors():
            return self._object(self._client.post(path, json=dict(body)))

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the parts of a stream; errors as for `post`."""
        with self._errors(), self._client.stream("POST", path, json=dict(body)) as response:
            if response.status_code != 200:
                response.read()
                self._object(response)
            for line in response.iter_lines():
                data = line.removeprefix("data: ")
                if line == data or data == "[DONE]":
                    continue
                part = json.loads(data)
                if "error" in part:
                    raise self._error(response.status_code, part["error"])
                yield part

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            raise CharlmError(
                f"{self.url}: no server answers; start one with charlm serve, or check the address"
            ) from None
        except httpx.TimeoutException:
            raise CharlmError(f"{self.url}: the server does not answer in time") from None
        except httpx.HTTPError as error:
            raise CharlmError(one_line(f"{self.url}: the connection broke: {error}")) from None
        except (ValueError, KeyError, TypeError):
            raise CharlmError(f"{self.url}: is no server of charlm; check the address") from None

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        answer = response.json()
        if response.status_code != 200:
            raise self._error(response.status_code, answer["error"])
        if not isinstance(answer, dict):
            raise TypeError("the answer is no object")
        return answer

    def _error(self, status: int, error: Mapping[str, Any]) -> CharlmError:
        message, param = str(error["message"]), error["param"]
        if status == 401:
            problem = f"{self.url}: the server needs a key, or refuses this one"
            return CharlmError(f"{problem}; give it with api_key, or in the file of --api-key-file")
        if status == 429:
            return BusyError(one_line(f"{self.url}: {message}"))
        if param is not None:
            option = OPTION_OF.get(param, param)
            return UnsupportedOptionError(option, one_line(message.removeprefix(f"{param}: ")))
        return CharlmError(one_line(f"{self.url}: {message}"))


def request_of(options: SampleOptions) -> dict[str, Any]:
    """Return the request to `/v1/completions` that writes the texts of options.

    Raises:
        UnsupportedOptionError: An option needs the run on this machine.
    """
    _refuse(options)
    stop, filters, constraints = options.stop, options.filters, options.constraints
    length = DEFAULT_LENGTH if stop.length is None and stop.characters is None else stop.length
    return {
        "prompt": options.prompt,
        "echo": True,
        "max_tokens": length,
        "characters": stop.characters,
        "stop": list(stop.until),
        "include_stop_str_in_output": stop.includes_until,
        "temperature": filters.temperature,
        "top_k": filters.top_k,
        "top_p": filters.top_p,
        "min_p": filters.min_p,
        "typical_p": filters.typical,
        "epsilon": filters.epsilon,
        "eta": filters.eta,
        "repetition_penalty": filters.repetition_penalty,
        "repetition_window": filters.repetition_window,
        "no_repeat_ngram": filters.no_repeat_ngram,
        "presence_penalty": filters.presence_penalty,
        "frequency_penalty": filters.frequency_penalty,
        "logit_bias": {str(token): bias for token, bias in filters.logit_bias},
        "ban": list(constraints.ban),
        "max_copy": constraints.max_copy,
        "regex": constraints.matching,
        "n": options.count,
        "best_of": options.best_of if options.best_of > 1 else None,
        "length_penalty": options.length_penalty,
        "seed": 1 if options.seed is None else options.seed,
        "allow_unknown": options.allow_unknown,
    }


def _refuse(options: SampleOptions) -> None:
    local = {
        "novel": options.constraints.novel,
        "state_in": options.state_in is not None,
        "state_out": options.state_out,
    }
    for option, is_given in local.items():
        if is_given:
            raise UnsupportedOptionError(option, "needs the run on this machine; leave it out")
    if options.count > 1 and options.best_of > 1:
        problem = "cannot be combined with {} on a server; ask for one text at a time"
        raise UnsupportedOptionError("best_of", problem, others=["count"])
    if options.count > MAX_CHOICES:
        problem = f"must be at most {MAX_CHOICES:,} on a server"
        raise UnsupportedOptionError("count", problem, value=options.count)


def _base_of(url: str) -> str:
    """Return the address of a server, of which the part up to /v1 may be given, too."""
    base = url.rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(base)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port
    except ValueError:
        is_valid = False
    if not is_valid:
        problem = "must be an address such as http://127.0.0.1:8765"
        raise OptionError("url", problem, value=url)
    return base
