"""The runs of a server, by the names of their folders."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from charlm.data.tokenizer import EOS, EOS_TEXT, UNK, UNK_TEXT, Tokenizer
from charlm.errors import OptionError
from charlm.serving.engine import Engine, Limits
from charlm.serving.errors import ApiError
from charlm.serving.options import ServeOptions
from charlm.serving.states import StateStore
from charlm.trained_model import TrainedModel, require_language_model


@dataclass(frozen=True)
class ServedModel:
    """A run that answers requests.

    Attributes:
        name: Name of the run folder.
        trained: Model, tokenizer and configuration.
        engine: Writes the texts of all requests.
        states: States that texts can be continued from.
        token_names: Name of each id, different for each.
    """

    name: str
    trained: TrainedModel
    engine: Engine
    states: StateStore
    token_names: Sequence[str]


class ServedModels:
    """The runs of a server; the first one answers requests that name none."""

    def __init__(self, runs: Sequence[TrainedModel], options: ServeOptions) -> None:
        """Start an engine for each run.

        Raises:
            OptionError: There is no run, or two have the same name.
            CharlmError: A run predicts no whole text.
        """
        for run in runs:
            require_language_model(run)
        names = [run.folder.absolute().name for run in runs]
        if not runs or len(set(names)) < len(names):
            problem = "must be runs in folders of different names" if runs else "must be given"
            raise OptionError("runs", problem, value=names)
        limits = Limits(
            max_rows=options.max_streams,
            max_queued=options.max_queue,
            max_length=options.max_text,
        )
        self._models = {
            name: ServedModel(name, run, Engine(run, limits), StateStore(), names_of(run.tokenizer))
            for name, run in zip(names, runs, strict=True)
        }

    def __iter__(self) -> Iterator[ServedModel]:
        """Iterate over the runs."""
        return iter(self._models.values())

    def find(self, name: str | None) -> ServedModel:
        """Return the run of a name, by default the first one.

        Raises:
            ApiError: There is no such run.
        """
        if name is None:
            return next(iter(self))
        if name not in self._models:
            message = f"there is no model {name!r:.80}; use one of {', '.join(self._models)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return self._models[name]

    def find_tokenizer(self, name: str | None) -> ServedModel:
        """Return the run of a name, which may be left out if there is only one.

        lm-evaluation-harness asks for token ids without a name. With those of another run, its
        scores would be wrong without a sign of it.

        Raises:
            ApiError: There is no such run, or the name is missing.
        """
        if name is None and len(self._models) > 1:
            names = ", ".join(self._models)
            message = f"model: must name the run whose tokens are meant, one of {names}"
            raise ApiError(400, message, param="model", code="invalid_value")
        return self.find(name)

    def close(self) -> None:
        """End the work of all engines."""
        for model in self:
            model.engine.close()


def names_of(tokenizer: Tokenizer) -> list[str]:
    r"""Return a name for each id: its text, and `bytes:\xe2` for bytes that are no whole character.

    Ids with the same text have different names, so that a dictionary can have both.
    """
    names: list[str] = []
    seen: set[str] = set()
    for token, data in enumerate(tokenizer.token_bytes):
        name = {EOS: EOS_TEXT, UNK: UNK_TEXT}.get(token) or _text_of(data)
        if name in seen:
            name = f"{name} [id {token}]"
        while name in seen:
            name += "'"
        names.append(name)
        seen.add(name)
    return names


def _text_of(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
