"""Sections of the configuration, with every field, default, range and description."""

from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from charlm.errors import OptionError

BUDGETS = ("minutes", "steps", "epochs")
# What a field that is left empty becomes where neither the level nor a corpus card says otherwise.
VOCABULARY_SIZES = {"char": None, "byte": None, "word": 10_000, "bpe": 2_048}
VALID_SHARE, TEST_SHARE = 0.1, 0.0
_MOST_UNITS = 1 << 20
_MOST_LAYERS = 256
_OF_WHOLE = {"tied": "the embedding's matrix", "mixture": "mixed"}
CELL_KINDS = ("bag", "elman", "gru", "lstm", "nested_lstm", "mogrifier_lstm", "min_gru", "min_lstm")
CELL_OPTIONS: dict[str, tuple[str, ...]] = {
    "elman": ("activation",),
    "gru": ("reset",),
    "lstm": (
        "peepholes",
        "peephole_weights",
        "without",
        "coupled",
        "capped",
        "full_gate_recurrence",
    ),
    "nested_lstm": ("depth",),
    "mogrifier_lstm": ("rounds", "rank"),
}


def _as_list(value: object) -> object:
    """Accept one name or number where a list of them is meant."""
    return (value,) if isinstance(value, str | int | float) else value


def _as_cell(value: object) -> object:
    """Accept `cell: lstm` for `cell: {kind: lstm}`."""
    return {"kind": value} if isinstance(value, str) else value


_registered_kinds: set[str] = set()


def register_cell_kind(name: str) -> None:
    """Allow `model.cell.kind=NAME` in this process; `charlm.register_cell` adds the cell itself.

    Raises:
        OptionError: The name is not an identifier, or is that of a cell of charlm.
    """
    if not name.isidentifier():
        raise OptionError("name", "must be a Python identifier, such as my_cell", value=name)
    if name in CELL_KINDS:
        raise OptionError("name", "is a cell of charlm; choose another name", value=name)
    _registered_kinds.add(name)


def _check_cell_kind(kind: str) -> str:
    known = (*CELL_KINDS, *sorted(_registered_kinds))
    if kind in known:
        return kind
    near = get_close_matches(kind, known, n=1)
    hint = f"nearest: {near[0]}; " if near else ""
    raise ValueError(
        f"{kind!r:.60} is not registered ({hint}known: {', '.join(known)}); correct the name, or "
        "call charlm.register_cell for it first"
    )


TextNames = Annotated[tuple[str, ...], BeforeValidator(_as_list), Field(min_length=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Sizes = Annotated[
    tuple[Annotated[int, Field(ge=1, le=_MOST_UNITS)], ...],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=_MOST_LAYERS),
]
Cutoffs = Annotated[tuple[Annotated[int, Field(ge=2)], ...], BeforeValidator(_as_list)]
Gates = Annotated[tuple[Literal["input", "forget", "output"], ...], BeforeValidator(_as_list)]
LeftOut = Annotated[
    tuple[
        Literal[
            "input_gate", "forget_gate", "output_gate", "input_activation", "output_activation"
        ],
        ...,
    ],
    BeforeValidator(_as_list),
]
Level = Literal["char", "byte", "word", "bpe"]
Mode = Literal["stream", "records"]
Split = Literal["contiguous", "documents", "shuffled"]


class Section(BaseModel):
    """A frozen part of the configuration that refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def fields_shown(self) -> list[str]:
        """Return the names of the fields that are written out: all of them."""
        return list(type(self).model_fields)


class Corpus(Section):
    """What is read. A field left empty is what the corpus card says, or else the default in brackets."""

    text: TextNames = Field(
        ("python-docs",),
        description="Name of a corpus (charlm corpus list), or files, folders, globs; .gz, .zst, .jsonl, .parquet.",
    )
    valid_text: TextNames | None = Field(
        None, description="A separate text for validation, instead of a share."
    )
    test_text: TextNames | None = Field(
        None, description="A separate text for testing, instead of a share."
    )
    mode: Mode | None = Field(
        None, description="stream: one long text; records: a line is one sequence. [stream]"
    )
    valid_share: Fraction | None = Field(
        None, description="Share of the text held out for validation. [0.1]"
    )
    test_share: Fraction | None = Field(
        None, description="Share of the text held out for testing. [0]"
    )
    split: Split | None = Field(
        None,
        description="contiguous: the end of the text is held out; documents: the last whole documents; shuffled: "
        "documents or records drawn by seed. [contiguous in stream mode, shuffled in records mode]",
    )
    split_seed: int = Field(
        1,
        ge=0,
        description="Seed of the shuffled split; apart from training.seed, so "
        "that runs of several seeds share one held-out text.",
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description="Text that stands between the documents of a file. [none: a file is "
        "one document]",
    )
    encoding: str = Field("utf-8", description="Encoding of the files.")
    field: str | None = Field(
        None,
        min_length=1,
        description="Of .jsonl and .parquet: the field that holds each document's text. [text]",
    )
    where: dict[str, str | int | float | bool | None] = Field(
        {},
        description="Of .jsonl and .parquet: fields and what they must be, as in {language: en}; other documents "
        "are passed over.",
    )


def _described(name: str) -> Any:
    """Return a required field with the description of the same field of `Corpus`."""
    return Field(description=Corpus.model_fields[name].description)


class ResolvedCorpus(Corpus):
    """A corpus section in which no field is open: `charlm.data.resolve` makes it."""

    mode: Mode = _described("mode")
    valid_share: Fraction = _described("valid_share")
    test_share: Fraction = _described("test_share")
    split: Split = _described("split")


class Tokenizer(Section):
    """How text becomes token ids. <EOS> is 0 and <UNK> is 1 at every level."""

    level: Level = Field(
        "char",
        description="char, byte, word, or bpe (subwords). Not given, what the corpus card says.",
    )
    vocabulary_size: int | None = Field(
        None,
        ge=3,
        le=_MOST_UNITS,
        description="Most tokens kept, <EOS> and <UNK> among them. [char: all; word: "
        "10000; bpe: 2048; byte: always 258]",
    )
    min_count: int = Field(1, ge=1, description="Times a character or word must occur to be known.")
    lowercase: bool = Field(False, description="Read capital letters as small ones.")
    normalization: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] = Field(
        "none", description="Unicode normalization; none gives back every text as it was."
    )
    eos: Literal["document", "line", "sentence", "none"] = Field(
        "document", description="In stream mode, where <EOS> goes: after each of these."
    )
    words: Literal["words", "whitespace"] = Field(
        "words",
        description="level word: words (any text, spacing kept) or whitespace (what stands between "
        "spaces; the end of a line is <EOS>: the convention of published word-level tasks).",
    )

    @model_validator(mode="after")
    def _has_an_effect(self) -> "Tokenizer":
        if self.words == "whitespace" and self.level != "word":
            raise ValueError(f"words: whitespace needs level: word, got {self.level}")
        if self.words == "whitespace" and self.eos == "sentence":
            raise ValueError("eos: with words: whitespace the end of a line is <EOS>; remove eos")
        changed = [
            name
            for name in ("vocabulary_size", "min_count", "lowercase", "normalization")
            if getattr(self, name) != type(self).model_fields[name].default
        ]
        if self.level == "byte" and changed:
            raise ValueError(
                f"{changed[0]}: has no effect at level byte, which takes every byte as it is; remove it"
            )
        return self


class Cell(Section):
    """The recurrence. `cell: gru` is short for `cell: {kind: gru}`. An option of another kind is refused."""

    kind: Annotated[str, AfterValidator(_check_cell_kind)] = Field(
        "lstm",
        description="bag, elman, gru, lstm, nested_lstm, mogrifier_lstm, min_gru, min_lstm, or the name "
        "given to charlm.register_cell.",
    )
    activation: Literal["tanh", "relu", "sigmoid"] = Field(
        "tanh", description="elman: tanh, relu, sigmoid."
    )
    reset: Literal["after", "before", "none"] = Field(
        "after",
        description="gru: the reset gate acts after the recurrent product (the fastest), before it, or is none.",
    )
    peepholes: Gates = Field(
        (), description="lstm: gates that see the memory, of input, forget, output."
    )
    peephole_weights: Literal["diagonal", "full"] = Field(
        "diagonal", description="lstm: a weight a unit, or a matrix a peephole."
    )
    without: LeftOut = Field(
        (),
        description="lstm: what is left out, of input_gate, forget_gate, output_gate, input_activation, "
        "output_activation.",
    )
    coupled: bool = Field(False, description="lstm: the forget gate is 1 - the input gate.")
    capped: bool = Field(
        False,
        description="lstm: the input gate is at most 1 - the forget gate (Melis et al. 2018).",
    )
    full_gate_recurrence: bool = Field(
        False, description="lstm: gates also see the gates of the token before."
    )
    depth: int = Field(2, ge=2, le=16, description="nested_lstm: LSTMs in one another.")
    rounds: int = Field(
        5,
        ge=1,
        le=64,
        description="mogrifier_lstm: times that input and state gate each other, in turn.",
    )
    rank: int | None = Field(
        32,
        ge=1,
        le=_MOST_UNITS,
        description="mogrifier_lstm: rank of those gates' matrices; null for full ones.",
    )

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that this kind has."""
        return CELL_OPTIONS.get(self.kind, ())

    def fields_shown(self) -> list[str]:
        """Return what is written of a cell: its kind and the options of it."""
        return ["kind", *self.options]

    @model_validator(mode="after")
    def _has_options_of_its_kind(self) -> "Cell":
        owners = {option: kind for kind, options in CELL_OPTIONS.items() for option in options}
        for name, owner in owners.items():
            if (
                name not in self.options
                and getattr(self, name) != type(self).model_fields[name].default
            ):
                raise ValueError(
                    f"{name}: is an option of {owner}; kind {self.kind} has none such; remove it"
                )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> "Cell":
        for name in self.peepholes:
            if f"{name}_gate" in self.without:
                raise ValueError(
                    f"peepholes: the {name} gate is left out, so nothing sees through its peephole; remove one"
                )
        if (
            self.coupled and "forget" in self.peepholes
        ):  # The two gates are one, and its weights are the input gate's.
            if "input" in self.peepholes:
                raise ValueError(
                    "peepholes: with coupled the input and forget gate are one; name one of the two"
                )
            named = tuple("input" if name == "forget" else name for name in self.peepholes)
            object.__setattr__(self, "peepholes", named)
        if self.coupled and self.capped:
            raise ValueError(
                "capped: with coupled the input gate is 1 - the forget gate already; remove one of the two"
            )
        for gate in ("input_gate", "forget_gate"):
            option = "coupled" if self.coupled else "capped"
            if (self.coupled or self.capped) and gate in self.without:
                raise ValueError(
                    f"{option}: joins input and forget gate, but {gate} is left out; remove one of the two"
                )
        if self.peephole_weights == "full" and not self.peepholes:
            raise ValueError(
                "peephole_weights: there are no peepholes; name them, as in peepholes: [input, forget, output]"
            )
        if self.full_gate_recurrence and {"input_gate", "forget_gate", "output_gate"} <= set(
            self.without
        ):
            raise ValueError(
                "full_gate_recurrence: every gate is left out, so there is none to recur; remove one"
            )
        return self


class Model(Section):
    """The network: embedding, recurrence, projection."""

    cell: Annotated[Cell, BeforeValidator(_as_cell)] = Field(Cell(), description="The recurrence.")  # type: ignore[call-arg]
    hidden_size: Sizes = Field(
        (512,),
        description="Units of each layer, or a list, one a layer: 512 is what a minute of two cores can train. "
        "A bag is as wide as its input.",
    )
    num_layers: int = Field(
        1,
        ge=1,
        le=_MOST_LAYERS,
        description="Layers: one wide layer beats two narrow ones in a minute.",
    )
    embedding: Literal["learned", "one_hot", "pretrained"] = Field(
        "learned",
        description="learned; one_hot: a token's unit vector, as wide as the vocabulary; pretrained: from vectors.",
    )
    embedding_size: int = Field(
        64,
        ge=1,
        le=_MOST_UNITS,
        description="Units of a token's embedding; has no effect on one_hot.",
    )
    vectors: str | None = Field(
        None,
        min_length=1,
        description="pretrained: a text file of vectors, GloVe's or word2vec's, or .gz of one.",
    )
    freeze_embedding: bool = Field(False, description="pretrained: leave the vectors as they are.")
    direction: Literal["forward", "backward", "both"] = Field(
        "forward",
        description="backward: predicts each token from those after it; both: two networks that share "
        "embedding and projection, to score a text or fill a gap from both sides.",
    )
    skip: Literal["none", "residual", "sum"] = Field(
        "none",
        description="residual: a layer's input is added to its output, from the second layer on; "
        "sum: the projection sees the sum of all layers' outputs.",
    )
    layer_norm: bool = Field(
        False, description="Normalize what each layer gives, before it is read."
    )
    initial_state: Literal["zero", "learned"] = Field(
        "zero", description="State before the first token."
    )
    recurrent_gain: float = Field(
        1.0,
        gt=0,
        description="Gain of the recurrent matrices, orthogonal at first: above 1 "
        "states and gradients can explode, below they vanish sooner.",
    )
    tied: bool = Field(
        False, description="Embedding and projection share one matrix (Press and Wolf 2017)."
    )
    mixture: int = Field(
        1,
        ge=1,
        le=1000,
        description="Softmaxes that are mixed (Yang et al. 2018): for words; 10 to 15 help.",
    )
    adaptive_cutoffs: Cutoffs = Field(
        (),
        description="Ids at which the vocabulary, frequent tokens first, is cut for an adaptive softmax (Grave et "
        "al. 2017), as in [2000, 10000]: for vocabularies of tens of thousands.",
    )
    word_dropout: Fraction = Field(
        0.0,
        description="Share of the vocabulary whose embeddings are dropped, whole, for a "
        "window (Gal and Ghahramani 2016).",
    )
    embedding_dropout: Fraction = Field(
        0.0, description="Share of the embedding's units dropped: the first layer's input."
    )
    dropout: Fraction = Field(
        0.0, description="Share of units dropped between layers (Zaremba et al. 2014)."
    )
    output_dropout: Fraction = Field(
        0.0, description="Share of units dropped before the projection."
    )
    dropout_mask: Literal["token", "window"] = Field(
        "token",
        description="token: other units are dropped at each token; window: the same ones for a whole window, "
        "variational dropout (Gal and Ghahramani 2016).",
    )
    weight_dropout: Fraction = Field(
        0.0,
        description="Share of the recurrent matrices' weights dropped for a window "
        "(Merity et al. 2018).",
    )

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Units of every layer, the first layer first."""
        return self.hidden_size if len(self.hidden_size) > 1 else self.hidden_size * self.num_layers

    @model_validator(mode="after")
    def _fits_together(self) -> "Model":
        if len(self.hidden_size) > 1:
            if "num_layers" in self.model_fields_set and self.num_layers != len(self.hidden_size):
                raise ValueError(
                    f"hidden_size: is a list of {len(self.hidden_size)}, but num_layers is {self.num_layers}; "
                    "remove num_layers"
                )
            object.__setattr__(self, "num_layers", len(self.hidden_size))
        if self.skip != "none" and len(set(self.hidden_sizes)) > 1:
            raise ValueError(
                f"skip: {self.skip} adds layers up, so all of hidden_size must be equal, got "
                f"{list(self.hidden_sizes)}"
            )
        if self.embedding == "pretrained" and self.vectors is None:
            raise ValueError(
                "embedding: pretrained needs vectors, a file of them: vectors: glove.6B.100d.txt"
            )
        for name in ("vectors", "freeze_embedding"):
            if self.embedding != "pretrained" and getattr(self, name):
                raise ValueError(
                    f"{name}: is read with embedding: pretrained alone, got {self.embedding}"
                )
        return self

    @model_validator(mode="after")
    def _ends_fit_together(self) -> "Model":
        if self.tied and (self.embedding == "one_hot" or self.freeze_embedding):
            reason = (
                "one_hot has no matrix to share"
                if self.embedding == "one_hot"
                else "freeze_embedding would freeze the projection with it"
            )
            raise ValueError(f"tied: {reason}; remove one of the two")
        if self.adaptive_cutoffs:
            for name, given in (("tied", self.tied), ("mixture", self.mixture > 1)):
                if given:
                    raise ValueError(
                        f"adaptive_cutoffs: a projection in parts cannot be {_OF_WHOLE[name]}; remove {name}"
                    )
            if list(self.adaptive_cutoffs) != sorted(set(self.adaptive_cutoffs)):
                raise ValueError(f"adaptive_cutoffs: must rise, got {list(self.adaptive_cutoffs)}")
        if self.embedding == "one_hot" and self.word_dropout:
            raise ValueError(
                "word_dropout: one_hot has no embeddings to drop; use embedding_dropout"
            )
        return self


class Training(Section):
    """How the network is trained. The objective is cross-entropy summed over time, averaged over the batch."""

    minutes: float | None = Field(None, gt=0, description="Budget: minutes of training steps.")
    steps: int | None = Field(None, ge=1, description="Budget: training steps.")
    epochs: float | None = Field(None, gt=0, description="Budget: passes over the training text.")
    batch_size: int = Field(
        16,
        ge=1,
        description="Streams or records side by side in a step: small batches "
        "take more steps, and steps are what a minute is short of.",
    )
    accumulation: int = Field(
        1,
        ge=1,
        le=1 << 16,
        description="Parts in which a batch is computed, one after the "
        "other, for one step: the same gradient with less memory.",
    )
    window: int = Field(
        64, ge=1, description="Tokens in a step of truncated backpropagation through time."
    )
    vary_window: bool = Field(
        False,
        description="stream: windows of varying length, mostly `window`, so that they "
        "end elsewhere in each epoch (Merity et al. 2018).",
    )
    partial_shuffle: bool = Field(
        False,
        description="stream: each epoch begins elsewhere in each of the streams (Press 2019).",
    )
    optimizer: Literal["adamw", "adam", "nadam", "rmsprop", "sgd", "muon"] = Field(
        "adamw",
        description="The optimizer; muon: Muon on the recurrent layers' matrices, gate by gate, AdamW on the "
        "rest (Jordan et al. 2024).",
    )
    learning_rate: float = Field(
        8.0e-3,
        gt=0,
        description="Peak rate of the schedule: high, for a run of minutes with "
        "a small batch; for hours or several layers, a quarter of it.",
    )
    beta1: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="Decay of the mean of gradients; momentum for sgd and muon; 0 "
        "for Adam without it (Melis et al. 2018).",
    )
    beta2: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Decay of the mean of squared gradients: 0.99 adapts "
        "within the few thousand steps of a short run.",
    )
    weight_decay: float = Field(
        0.1, ge=0, description="Weight decay on the matrices: at high rates 0.1 to 0.2 beats 0.01."
    )
    decay_embeddings: bool = Field(False, description="Weight decay on embeddings too.")
    decay_biases: bool = Field(False, description="Weight decay on biases too.")
    schedule: Literal["linear", "cosine", "constant", "trapezoid", "plateau"] = Field(
        "linear",
        description="After the warm-up: fall to zero by a line or a cosine, stay constant, stay and fall "
        "over the last fifth (trapezoid), or be quartered after each evaluation that is no new best (plateau).",
    )
    warmup_steps: int = Field(100, ge=0, description="Steps in which the rate rises from zero.")
    averaging: Literal["none", "exponential", "triggered"] = Field(
        "none",
        description="Weights that are scored and kept: the last; their exponential mean; or, from where "
        "validation stops falling, the mean of all since (NT-ASGD, Merity et al. 2018).",
    )
    average_steps: float = Field(
        200.0,
        ge=1,
        description="exponential: steps that the mean reaches back, about; its "
        "decay is 1 - 1 / average_steps.",
    )
    trigger_evaluations: int = Field(
        5,
        ge=1,
        description="triggered: averaging begins when validation has not fallen "
        "below what it was so many evaluations ago.",
    )
    label_smoothing: Fraction = Field(
        0.0,
        description="Share of the target's probability that is spread over the whole "
        "vocabulary (Szegedy et al. 2016); not part of any score.",
    )
    activation_regularization: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean square of what the projection reads (Merity et al. 2018: 2).",
    )
    temporal_regularization: float = Field(
        0.0,
        ge=0,
        description="Weight of the mean square of the output's change from token to token (Merity et al. "
        "2018: 1).",
    )
    clipnorm: float | None = Field(
        64.0,
        gt=0,
        description="Largest norm of the gradient of the sum over "
        "time; about the window times what one would give for a mean.",
    )
    clipvalue: float | None = Field(
        None, gt=0, description="Largest size of a component of that gradient."
    )
    seed: int = Field(1, ge=0, description="Seed of weights, dropout and order.")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device is faster in it, fp32 elsewhere."
    )
    cuda_graph: bool = Field(
        False,
        description="On a GPU, record a step once and launch it as one from then on: with "
        "adamw, adam or muon, one process, no adaptive softmax or learnt initial states; else it "
        "does nothing. Not tried on a GPU yet.",
    )
    evaluations: int = Field(
        5,
        ge=1,
        description="Evaluations on the validation split, evenly over the "
        "budget, the last at its end.",
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after so many evaluations with no new best."
    )
    on_divergence: Literal["stop", "halve"] = Field(
        "stop",
        description="When the loss is no longer finite: stop, or go back to the last good evaluation with half "
        "the rate.",
    )
    halvings: int = Field(3, ge=1, le=100, description="halve: at most so often; then it stops.")
    gradient_compression: Literal["none", "bf16"] = Field(
        "none",
        description="Several processes: none exchanges gradients in fp32, bf16 in half the bytes.",
    )
    timeout_seconds: float = Field(
        300.0,
        gt=0,
        le=86400,
        description="Several processes: for how long one may keep the others waiting.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> "Training":
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}: give one of minutes, steps, epochs")
        if not given:  # A minute shows any text's first results.
            object.__setattr__(self, "minutes", 1.0)
        return self


class Checkpoint(Section):
    """What is kept on disk."""

    save_seconds: float = Field(
        30.0,
        gt=0,
        description="Seconds between saves of last/, beside those at each "
        "evaluation: the most that a crash can cost.",
    )
    save_share: float | None = Field(
        0.03,
        gt=0,
        lt=1,
        description="Most that saving may take of training's time: until then a save is put off, but "
        "for the last. Empty: none is.",
    )


class Config(Section):
    """A whole experiment. Frozen; `load_config` makes one from a file and overrides."""

    corpus: Corpus = Field(Corpus(), description="What is read.")  # type: ignore[call-arg]
    tokenizer: Tokenizer = Field(Tokenizer(), description="How text becomes token ids.")  # type: ignore[call-arg]
    model: Model = Field(Model(), description="The network.")  # type: ignore[call-arg]
    training: Training = Field(Training(), description="How it is trained.")  # type: ignore[call-arg]
    checkpoint: Checkpoint = Field(Checkpoint(), description="What is kept.")  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "Config":
        held_out = (self.corpus.valid_share or 0) + (self.corpus.test_share or 0)
        if held_out >= 1:
            raise ValueError(
                f"corpus.valid_share and corpus.test_share leave nothing to train on: {held_out}"
            )
        return self


class ResolvedConfig(Config):
    """A configuration in which no field of the corpus is open: what a run is made from."""

    corpus: ResolvedCorpus = Field(description="What is read.")
