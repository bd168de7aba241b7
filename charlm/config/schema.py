"""Sections of the configuration, with every field, default, range and description."""

import re
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from charlm.config.annotations import value_types
from charlm.errors import OptionError

BUDGETS = ("minutes", "steps", "epochs")
# Values of fields that are not given, if the corpus card does not give them either.
VOCABULARY_SIZES = {"char": None, "byte": None, "word": 10_000, "bpe": 2_048}
VALID_SHARE, TEST_SHARE = 0.1, 0.0
RULES = 2  # Of reading texts, in new runs.
# Upper limits, so that an untrusted configuration cannot exhaust memory.
_MAX_UNITS = 1 << 20
_MAX_LAYERS = 256
_MAX_NGRAMS = 8
CELL_KINDS = (
    *("bag", "elman", "gru", "lstm", "nested_lstm", "mogrifier_lstm"),
    *("min_gru", "min_lstm", "rg_lru", "hgrn"),
    *("slstm", "diagonal_gru", "diagonal_lstm"),
)
TaskKind = Literal["language_model", "complete", "translate", "classify", "tag"]
# Options of each kind of task; those of other kinds are rejected.
TASK_OPTIONS: dict[str, tuple[str, ...]] = {"classify": ("pooling",), "translate": ("attention",)}
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


def as_list(value: object) -> object:
    """Accept `a` for `[a]`."""
    return (value,) if isinstance(value, str | int | float) else value


def not_empty(name: str) -> str:
    """Refuse an empty name. Unlike `min_length`, this accepts a file name that is not UTF-8."""
    if not name:
        raise PydanticCustomError("string_too_short", "is empty", {"min_length": 1})
    return name


def as_cell(value: object) -> object:
    """Accept `lstm` for `{kind: lstm}`."""
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


def _check_cell_kind(kind: str) -> None:
    known = (*CELL_KINDS, *sorted(_registered_kinds))
    if kind not in known:
        near = get_close_matches(kind.lower().replace("-", "_"), known, n=1)
        hint = f"nearest: {near[0]}; " if near else ""
        raise ValueError(
            f"kind: {kind!r:.60} is not registered ({hint}known: {', '.join(known)}); correct the "
            "name, or, in a Python program, call charlm.register_cell for it first"
        )


TextNames = Annotated[
    tuple[Annotated[str, AfterValidator(not_empty)], ...],
    BeforeValidator(as_list),
    Field(min_length=1),
]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Sizes = Annotated[
    tuple[Annotated[int, Field(ge=1, le=_MAX_UNITS)], ...],
    BeforeValidator(as_list),
    Field(min_length=1, max_length=_MAX_LAYERS),
]
Cutoffs = Annotated[tuple[Annotated[int, Field(ge=2)], ...], BeforeValidator(as_list)]
Gates = Annotated[tuple[Literal["input", "forget", "output"], ...], BeforeValidator(as_list)]
LeftOut = Annotated[
    tuple[
        Literal[
            "input_gate", "forget_gate", "output_gate", "input_activation", "output_activation"
        ],
        ...,
    ],
    BeforeValidator(as_list),
]
Level = Literal["char", "byte", "word", "bpe"]
TOKEN_NAMES: dict[Level, str] = {
    "char": "characters",
    "byte": "bytes",
    "word": "words",
    "bpe": "subwords",
}
Mode = Literal["stream", "records"]
Split = Literal["contiguous", "documents", "shuffled"]
Copies = Literal["together", "apart"]
Record = Literal["line", "document"]


class Section(BaseModel):
    """A frozen part of the configuration that rejects unknown keys.

    Its validators raise `ValueError("FIELD: problem, got VALUE; remedy")`; the name of the section
    is put before the field (charlm.config.mistakes).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def fields_shown(self) -> list[str]:
        """Return the names of the fields that `charlm.config.show` writes."""
        return list(type(self).model_fields)

    @model_validator(mode="before")
    @classmethod
    def _empty_section_has_defaults(cls, data: object) -> object:
        return {} if data is None else data

    @field_validator("*", mode="before")
    @classmethod
    def _number_is_what_it_seems(cls, value: object, info: ValidationInfo) -> object:
        """Refuse numbers that pydantic would convert: `yes` to 1, and 08 to 8."""
        kinds = value_types(cls.model_fields[str(info.field_name)].annotation)
        if kinds & {int, float} and bool not in kinds:
            for number in value if isinstance(value, list | tuple) else [value]:
                if isinstance(number, bool):
                    raise PydanticCustomError("not_a_number", "a truth value")
                if isinstance(number, str) and re.match(r"\s*[-+]?0[0-9_]", number):
                    raise PydanticCustomError("leading_zero", "a leading zero")
        return value


class Corpus(Section):
    """The text. A field that is null is set by the corpus card, else to the value in brackets."""

    text: TextNames = Field(
        ("python-docs",),
        description=(
            "Name of a corpus (see charlm corpus list), or files, folders and globs of "
            "text; compressed files (.gz, .bz2, .xz, .zst) and tables (.jsonl, .ndjson, "
            ".json, .csv, .tsv, .parquet) are read too."
        ),
    )
    valid_text: TextNames | None = Field(
        None, description="Separate text for validation, instead of a part of `text`."
    )
    test_text: TextNames | None = Field(
        None, description="Separate text for testing, instead of a part of `text`."
    )
    mode: Mode | None = Field(
        None,
        description=(
            "stream: one long text; records: each record is an independent sequence. [stream]"
        ),
    )
    record: Record | None = Field(
        None,
        description=(
            "records mode: what a record is: line; document, which can have several lines: a row "
            "of a table, the text between two separators, or a file. [document if there is a "
            "separator or the text is a table, else line]"
        ),
    )
    valid_share: Fraction | None = Field(
        None, description="Fraction of the text held out for validation. [0.1]"
    )
    test_share: Fraction | None = Field(
        None, description="Fraction of the text held out for testing. [0]"
    )
    split: Split | None = Field(
        None,
        description=(
            "Which part is held out: contiguous: the end of the text; documents: the "
            "last whole documents; shuffled: documents or records chosen by "
            "split_seed. [contiguous in stream mode, shuffled in records mode]"
        ),
    )
    split_seed: int = Field(
        1,
        ge=0,
        description=(
            "Seed of the shuffled split. It is separate from training.seed, so that "
            "runs with different seeds share one held-out text."
        ),
    )
    copies: Copies | None = Field(
        None,
        description=(
            "split: shuffled: together: all copies of a text are in one part, so that no held-out "
            "text occurs in training; apart: each copy is drawn by itself. [together]"
        ),
    )
    separator: str | None = Field(
        None,
        min_length=1,
        description=(
            r"Text between the documents of a file, as in \n\n for an empty line; in a YAML file "
            r'in double quotes: "\n\n". [none: each file is one document]'
        ),
    )
    encoding: str = Field(
        "utf-8", description="Encoding of the text files, also of JSON and CSV tables."
    )
    field: str | None = Field(
        None,
        min_length=1,
        description=(
            "Tables: name of the field that contains the text of a document. Rows in which it is "
            "null are skipped. [text]"
        ),
    )
    where: dict[str, str | int | float | bool | None] = Field(
        {},
        description=(
            "Tables: read only documents whose fields have these values, as in {language: en}. A "
            "text field also matches the value that YAML reads in it, as in {year: 2020}."
        ),
    )
    source: str | None = Field(
        None,
        min_length=1,
        description=(
            "Tasks, tables: name of the field with the source, such as a text to classify. [the "
            "only possible one]"
        ),
    )
    target: str | None = Field(
        None,
        min_length=1,
        description=(
            "Tasks, tables: name of the field with the target, such as a label. [the only possible "
            "one]"
        ),
    )
    rules: Literal[1, 2] | None = Field(
        None,
        description=(
            "Version of the rules for reading texts (docs/corpora.md). 1: those of earlier "
            "versions of charlm, for their run folders. [2]"
        ),
    )


def _described(name: str) -> Any:
    """Return a required field with the description of the same field of `Corpus`."""
    return Field(description=Corpus.model_fields[name].description)


class ResolvedCorpus(Corpus):
    """A corpus section in which every field has a value; made by `charlm.data.resolve`."""

    mode: Mode = _described("mode")
    record: Record = _described("record")
    valid_share: Fraction = _described("valid_share")
    test_share: Fraction = _described("test_share")
    split: Split = _described("split")
    rules: Literal[1, 2] = _described("rules")
    copies: Copies = _described("copies")


class Tokenizer(Section):
    """How text is divided into tokens. <EOS> is 0 and <UNK> is 1 at every level."""

    level: Level = Field(
        "char",
        description=(
            "Kind of token: char, byte, word, or bpe (subwords). If not given, the "
            "corpus card decides."
        ),
    )
    vocabulary_size: int | None = Field(
        None,
        ge=3,
        le=_MAX_UNITS,
        description=(
            "Maximum number of tokens, including <EOS> and <UNK>. [char: all "
            "characters; word: 10000; bpe: 2048; byte: always 258]"
        ),
    )
    min_count: int = Field(
        1,
        ge=1,
        description=(
            "Minimum number of times that a character or word must occur to be in the vocabulary."
        ),
    )
    lowercase: bool = Field(False, description="Convert the text to lower case.")
    normalization: Literal["none", "nfc", "nfd", "nfkc", "nfkd"] = Field(
        "none",
        description=(
            "Unicode normalization. With none, decoding returns exactly the original text."
        ),
    )
    eos: Literal["document", "line", "sentence", "none"] = Field(
        "document",
        description="stream mode: <EOS> follows each document, line or sentence, or nothing.",
    )
    words: Literal["words", "whitespace"] = Field(
        "words",
        description=(
            "level word: words: any text, spaces are preserved; whitespace: words are "
            "separated by spaces and each line ends with <EOS>, as in published "
            "word-level tasks."
        ),
    )

    @model_validator(mode="after")
    def _has_an_effect(self) -> "Tokenizer":
        if self.words == "whitespace" and self.level != "word":
            raise ValueError(
                f"words: whitespace needs level: word, got level: {self.level}; "
                "set tokenizer.level=word"
            )
        if self.words == "whitespace" and self.eos == "sentence":
            raise ValueError("eos: with words: whitespace, each line ends with <EOS>; remove eos")
        if self.level == "byte":
            self._check_no_effect_on_bytes()
        return self

    def _check_no_effect_on_bytes(self) -> None:
        for name in ("vocabulary_size", "min_count", "lowercase", "normalization"):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(f"{name}: has no effect at level byte, got {value!r}; remove it")


class Cell(Section):
    """The recurrent cell. `cell: gru` is short for `cell: {kind: gru}`.

    Options of other kinds are rejected.
    """

    kind: str = Field(
        "lstm",
        description=(
            "bag, elman, gru, lstm, nested_lstm, mogrifier_lstm, min_gru, min_lstm, rg_lru, hgrn, "
            "slstm, diagonal_gru, diagonal_lstm, or a name given to charlm.register_cell."
        ),
    )
    activation: Literal["tanh", "relu", "sigmoid"] = Field(
        "tanh", description="elman: activation function: tanh, relu, sigmoid."
    )
    reset: Literal["after", "before", "none"] = Field(
        "after",
        description=(
            "gru: the reset gate acts after the recurrent product (fastest), before "
            "it, or is absent (none)."
        ),
    )
    peepholes: Gates = Field(
        (), description="lstm: gates that also read the memory cell: any of input, forget, output."
    )
    peephole_weights: Literal["diagonal", "full"] = Field(
        "diagonal",
        description="lstm: diagonal: one weight per unit; full: one matrix per peephole.",
    )
    without: LeftOut = Field(
        (),
        description=(
            "lstm: parts to leave out: any of input_gate, forget_gate, output_gate, "
            "input_activation, output_activation."
        ),
    )
    coupled: bool = Field(False, description="lstm: the forget gate is 1 - the input gate.")
    capped: bool = Field(
        False,
        description="lstm: the input gate is at most 1 - the forget gate (Melis et al. 2018).",
    )
    full_gate_recurrence: bool = Field(
        False, description="lstm: the gates also read the gates of the previous token."
    )
    depth: int = Field(
        2, ge=2, le=16, description="nested_lstm: number of LSTMs nested in one another, 2 to 16."
    )
    rounds: int = Field(
        5,
        ge=1,
        le=64,
        description=(
            "mogrifier_lstm: number of times that the input and the state gate each "
            "other, alternately, 1 to 64."
        ),
    )
    rank: int | None = Field(
        32,
        ge=1,
        le=_MAX_UNITS,
        description=(
            "mogrifier_lstm: rank of the matrices of these gates; null for full matrices."
        ),
    )

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options of this kind."""
        return CELL_OPTIONS.get(self.kind, ())

    def fields_shown(self) -> list[str]:
        """Return `kind` and the names of its options."""
        return ["kind", *self.options]

    @model_validator(mode="after")
    def _kind_is_registered(self) -> "Cell":
        _check_cell_kind(self.kind)
        return self

    @model_validator(mode="after")
    def _has_only_options_of_its_kind(self) -> "Cell":
        owners = {option: kind for kind, options in CELL_OPTIONS.items() for option in options}
        for name, owner in owners.items():
            value, default = getattr(self, name), type(self).model_fields[name].default
            if name not in self.options and value != default:
                raise ValueError(f"{name}: is an option of {owner}, not of {self.kind}; remove it")
        return self

    @model_validator(mode="after")
    def _peepholes_belong_to_gates(self) -> "Cell":
        for name in self.peepholes:
            if f"{name}_gate" in self.without:
                raise ValueError(
                    f"peepholes: there is no {name} gate, because without contains {name}_gate; "
                    "remove one of the two"
                )
        if self.coupled and {"input", "forget"} <= set(self.peepholes):
            raise ValueError(
                "peepholes: with coupled, the input and the forget gate are the same; "
                "name one of the two"
            )
        if self.peephole_weights == "full" and not self.peepholes:
            raise ValueError(
                "peephole_weights: the cell has no peepholes; "
                "add them, as in peepholes: [input, forget, output]"
            )
        if self.coupled:  # The weights of the joined gate are those of the input gate.
            joined = tuple("input" if name == "forget" else name for name in self.peepholes)
            object.__setattr__(self, "peepholes", joined)
        return self

    @model_validator(mode="after")
    def _combined_gates_exist(self) -> "Cell":
        if self.coupled and self.capped:
            raise ValueError(
                "capped: with coupled, the input gate is already 1 - the forget gate; "
                "remove one of the two"
            )
        for gate in ("input_gate", "forget_gate"):
            if (self.coupled or self.capped) and gate in self.without:
                raise ValueError(
                    f"{'coupled' if self.coupled else 'capped'}: needs the input and the forget "
                    f"gate, but without contains {gate}; remove one of the two"
                )
        gates = {"input_gate", "forget_gate", "output_gate"}
        if self.full_gate_recurrence and gates <= set(self.without):
            raise ValueError(
                "full_gate_recurrence: there is no gate, because without contains all three; "
                "remove one of the two"
            )
        return self


class Model(Section):
    """The network: embedding, recurrence, projection."""

    cell: Annotated[Cell, BeforeValidator(as_cell)] = Field(
        Cell.model_validate({}), description="Recurrent cell."
    )
    hidden_size: Sizes = Field(
        (512,),
        description=(
            "Number of units of every layer, or a list with one number per layer. 512 "
            "is what two cores can train in a minute. The cell bag always has the size "
            "of its input."
        ),
    )
    num_layers: int = Field(
        1,
        ge=1,
        le=_MAX_LAYERS,
        description=(
            "Number of recurrent layers. In a run of one minute, one wide layer is "
            "better than two narrow ones."
        ),
    )
    embedding: Literal["learned", "one_hot", "pretrained"] = Field(
        "learned",
        description=(
            "learned; one_hot: the unit vector of a token, as wide as the vocabulary; "
            "pretrained: read from `vectors`."
        ),
    )
    embedding_size: int = Field(
        64,
        ge=1,
        le=_MAX_UNITS,
        description="Number of units of a token embedding; no effect with one_hot.",
    )
    vectors: str | None = Field(
        None,
        min_length=1,
        description=(
            "pretrained: text file of vectors in GloVe or word2vec format, optionally "
            "compressed (.gz)."
        ),
    )
    freeze_embedding: bool = Field(False, description="pretrained: do not train the vectors.")
    ngrams: int = Field(
        0,
        ge=0,
        le=_MAX_NGRAMS,
        description=(
            "Join the embedding of a token with a vector for each of its last 2, 3, ... up to N "
            "tokens, from hash tables (Pagnoni et al. 2024); 0: none. 4 helps with characters if "
            "the text is read at most twice."
        ),
    )
    ngram_buckets: int = Field(
        1 << 14,
        ge=1,
        le=_MAX_UNITS,
        description="ngrams: number of rows of the hash table for the n-grams of each length.",
    )
    ngram_width: int = Field(
        32,
        ge=1,
        le=_MAX_UNITS,
        description="ngrams: number of units of a row.",
    )
    ngram_dropout: Fraction = Field(
        0.0,
        description="ngrams: fraction of the rows dropped, each as a whole.",
    )
    direction: Literal["forward", "backward", "both"] = Field(
        "forward",
        description=(
            "forward: predict each token from those before it; backward: from those "
            "after it; both: two networks that share embedding and projection, to "
            "score a text or fill a gap from both sides."
        ),
    )
    skip: Literal["none", "residual", "sum"] = Field(
        "none",
        description=(
            "none; residual: from the second layer on, a layer's input is added to its "
            "output; sum: the projection reads the sum of the outputs of all layers."
        ),
    )
    layer_norm: bool = Field(False, description="Normalize the output of each layer.")
    block: Literal["none", "griffin"] = Field(
        "none",
        description=(
            "none; griffin: each layer is a residual block of De et al. 2024: RMSNorm and "
            "the recurrence with a gated branch, then RMSNorm and a gated MLP. The stream "
            "that the layers add to has `embedding_size` units, so choose 256 or more; "
            "`dropout` acts on what is added to it."
        ),
    )
    mlp_expansion: int = Field(
        3, ge=1, le=16, description="griffin: units of the MLP per unit of the stream, 1 to 16."
    )
    initial_state: Literal["zero", "learned"] = Field(
        "zero", description="State before the first token: zero or learned."
    )
    recurrent_gain: float = Field(
        1.0,
        gt=0,
        description=(
            "Gain of the orthogonal initialization of the recurrent matrices. Above 1, "
            "states and gradients can explode; below 1, they vanish sooner."
        ),
    )
    tied: bool = Field(
        False, description="Use one matrix for embedding and projection (Press and Wolf 2017)."
    )
    mixture: int = Field(
        1,
        ge=1,
        le=1000,
        description=(
            "Number of softmaxes in a mixture of softmaxes (Yang et al. 2018), 1 to "
            "1000. For words, 10 to 15 help."
        ),
    )
    adaptive_cutoffs: Cutoffs = Field(
        (),
        description=(
            "Token ids that divide the vocabulary, which is ordered by frequency, into "
            "the clusters of an adaptive softmax (Grave et al. 2017), as in [2000, "
            "10000]. For vocabularies of tens of thousands of tokens."
        ),
    )
    word_dropout: Fraction = Field(
        0.0,
        description=(
            "Fraction of the vocabulary whose whole embeddings are dropped during a "
            "window (Gal and Ghahramani 2016)."
        ),
    )
    embedding_dropout: Fraction = Field(
        0.0, description="Fraction of the embedding units dropped, before the first layer."
    )
    dropout: Fraction = Field(
        0.0, description="Fraction of units dropped between layers (Zaremba et al. 2014)."
    )
    output_dropout: Fraction = Field(
        0.0, description="Fraction of units dropped before the projection."
    )
    dropout_mask: Literal["token", "window"] = Field(
        "token",
        description=(
            "token: a new mask for each token; window: one mask for a whole window, as "
            "in variational dropout (Gal and Ghahramani 2016)."
        ),
    )
    weight_dropout: Fraction = Field(
        0.0,
        description=(
            "Fraction of the recurrent weights dropped during a window (Merity et al. 2018)."
        ),
    )

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Number of units of each layer."""
        return self.hidden_size if len(self.hidden_size) > 1 else self.hidden_size * self.num_layers

    @model_validator(mode="after")
    def _layers_fit_together(self) -> "Model":
        num_sizes = len(self.hidden_size)
        if num_sizes > 1:
            if "num_layers" in self.model_fields_set and self.num_layers != num_sizes:
                raise ValueError(
                    f"hidden_size: has {num_sizes} entries, but num_layers is {self.num_layers}; "
                    "remove num_layers"
                )
            object.__setattr__(self, "num_layers", num_sizes)
        if self.cell.kind == "hgrn" and len(set(self.hidden_sizes)) > 1:
            raise ValueError(
                "hidden_size: the layers of hgrn share a lower bound of their forget gates, so all "
                f"must have the same size, got {list(self.hidden_sizes)}; give one hidden_size"
            )
        if self.skip != "none" and len(set(self.hidden_sizes)) > 1:
            raise ValueError(
                f"skip: {self.skip} adds the outputs of layers, so all layers must have the same "
                f"size, got {list(self.hidden_sizes)}; give one hidden_size"
            )
        return self

    @model_validator(mode="after")
    def _ngrams_are_longer_than_a_token(self) -> "Model":
        if self.ngrams == 1:
            raise ValueError("ngrams: must be 0, or at least 2 tokens, got 1; set 0 for none")
        for name in ("ngram_buckets", "ngram_width", "ngram_dropout"):
            if not self.ngrams and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}: has an effect only with ngrams; set ngrams: 4, or remove it"
                )
        return self

    @model_validator(mode="after")
    def _block_is_the_only_way_around_a_layer(self) -> "Model":
        if self.block == "none":
            if self.mlp_expansion != type(self).model_fields["mlp_expansion"].default:
                raise ValueError(
                    "mlp_expansion: has an effect only with a block; set block: griffin, or remove "
                    "mlp_expansion"
                )
            return self
        for name in ("skip", "layer_norm"):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}: block: griffin has its own residual connections and norms, got "
                    f"{name}: {value}; remove {name}"
                )
        return self

    @model_validator(mode="after")
    def _pretrained_embedding_has_vectors(self) -> "Model":
        if self.embedding == "pretrained" and self.vectors is None:
            raise ValueError(
                "embedding: pretrained needs a file of vectors; "
                "add it, as in vectors: glove.6B.100d.txt"
            )
        for name in ("vectors", "freeze_embedding"):
            if self.embedding != "pretrained" and getattr(self, name):
                raise ValueError(
                    f"{name}: has an effect only with embedding: pretrained, got {self.embedding}; "
                    "remove it"
                )
        return self

    @model_validator(mode="after")
    def _embedding_fits_projection(self) -> "Model":
        if self.tied and self.embedding == "one_hot":
            raise ValueError("tied: one_hot has no matrix to share; remove one of the two")
        if self.tied and self.freeze_embedding:
            raise ValueError(
                "tied: freeze_embedding would freeze the projection too; remove one of the two"
            )
        if self.embedding == "one_hot" and self.word_dropout:
            raise ValueError(
                "word_dropout: one_hot has no embeddings to drop; use embedding_dropout instead"
            )
        return self

    @model_validator(mode="after")
    def _adaptive_softmax_is_possible(self) -> "Model":
        if not self.adaptive_cutoffs:
            return self
        if self.tied:
            raise ValueError(
                "adaptive_cutoffs: an adaptive softmax cannot use the embedding's matrix; "
                "remove tied"
            )
        if self.mixture > 1:
            raise ValueError(
                "adaptive_cutoffs: an adaptive softmax cannot be part of a mixture; remove mixture"
            )
        if list(self.adaptive_cutoffs) != sorted(set(self.adaptive_cutoffs)):
            raise ValueError(
                f"adaptive_cutoffs: must be increasing, got {list(self.adaptive_cutoffs)}"
            )
        return self


class Training(Section):
    """How the network is trained.

    The objective is the cross-entropy, summed over time and averaged over the batch.
    """

    minutes: float | None = Field(
        None, gt=0, description="Budget: minutes of training steps. [1, if no budget is given]"
    )
    steps: int | None = Field(None, ge=1, description="Budget: number of training steps.")
    epochs: float | None = Field(
        None, gt=0, description="Budget: number of passes over the training text."
    )
    batch_size: int = Field(
        16,
        ge=1,
        description=(
            "Number of streams or records in a step. In a short run, small batches are "
            "better because they allow more steps."
        ),
    )
    accumulation: int = Field(
        1,
        ge=1,
        le=1 << 16,
        description=(
            "Number of parts into which a batch is divided to save memory; their "
            "gradients are added before the step."
        ),
    )
    window: int = Field(
        64, ge=1, description="Number of tokens per step of truncated backpropagation through time."
    )
    vary_window: bool = Field(
        False,
        description=(
            "stream mode: vary the length of the windows around `window`, so that they "
            "end at different places in each epoch (Merity et al. 2018)."
        ),
    )
    partial_shuffle: bool = Field(
        False,
        description=(
            "stream mode: each stream starts at a different place in each epoch (Press 2019)."
        ),
    )
    restart_windows: int = Field(
        16,
        ge=0,
        description=(
            "stream mode: number of windows after which a stream starts the next document from "
            "the initial state, as sampling and scoring do, so that the model learns how documents "
            "begin; 0: never. A text without <EOS> inside has no such starts."
        ),
    )
    optimizer: Literal["adamw", "adam", "nadam", "rmsprop", "sgd", "muon"] = Field(
        "adamw",
        description=(
            "muon: Muon for the recurrent matrices, one gate at a time, and AdamW for "
            "all other parameters (Jordan et al. 2024)."
        ),
    )
    learning_rate: float = Field(
        8.0e-3,
        gt=0,
        description=(
            "Peak learning rate of the schedule. The default suits a run of minutes "
            "with a small batch; for hours or several layers, use a quarter of it."
        ),
    )
    beta1: float = Field(
        0.9,
        ge=0,
        lt=1,
        description=(
            "Decay rate of the mean of the gradients; momentum for sgd and muon; 0 "
            "gives Adam without momentum (Melis et al. 2018)."
        ),
    )
    beta2: float = Field(
        0.99,
        ge=0,
        lt=1,
        description=(
            "Decay rate of the mean of the squared gradients. 0.99 adapts within the "
            "few thousand steps of a short run."
        ),
    )
    weight_decay: float = Field(
        0.1,
        ge=0,
        description=(
            "Weight decay of the matrices. At high learning rates, 0.1 to 0.2 is better than 0.01."
        ),
    )
    decay_embeddings: bool = Field(False, description="Apply weight decay to embeddings too.")
    decay_biases: bool = Field(False, description="Apply weight decay to biases too.")
    schedule: Literal["linear", "cosine", "constant", "trapezoid", "plateau"] = Field(
        "linear",
        description=(
            "Learning rate after the warm-up: linear or cosine decay to zero; "
            "constant; trapezoid: constant, then linear decay in the last fifth; "
            "plateau: divided by 4 after each evaluation without a new best."
        ),
    )
    warmup_steps: int = Field(
        100, ge=0, description="Number of steps in which the learning rate rises from zero."
    )
    averaging: Literal["none", "exponential", "triggered"] = Field(
        "none",
        description=(
            "Weights that are scored and saved: none: the last weights; exponential: "
            "their exponential moving average; triggered: from the time when the "
            "validation loss stops falling, the mean of all weights since then "
            "(NT-ASGD, Merity et al. 2018)."
        ),
    )
    average_steps: float = Field(
        200.0,
        ge=1,
        description=(
            "exponential: number of steps that the average covers; its decay rate is 1 "
            "- 1 / average_steps."
        ),
    )
    trigger_evaluations: int = Field(
        5,
        ge=1,
        description=(
            "triggered: averaging starts when the validation loss is not below its "
            "value N evaluations earlier."
        ),
    )
    replay: Fraction = Field(
        0.0,
        description=(
            "Fraction of the trained tokens that are of the text of the run whose weights the "
            "training starts from (charlm train --from), so that the model does not forget it."
        ),
    )
    label_smoothing: Fraction = Field(
        0.0,
        description=(
            "Fraction of the target's probability that is distributed over the whole "
            "vocabulary (Szegedy et al. 2016). It affects training only, not scores."
        ),
    )
    activation_regularization: float = Field(
        0.0,
        ge=0,
        description=(
            "Weight of the mean square of the input of the projection (Merity et al. 2018: 2)."
        ),
    )
    temporal_regularization: float = Field(
        0.0,
        ge=0,
        description=(
            "Weight of the mean square of the change of the output from one token to "
            "the next (Merity et al. 2018: 1)."
        ),
    )
    clipnorm: float | None = Field(
        64.0,
        gt=0,
        description=(
            "Maximum norm of the gradient of the loss, which is summed over time. It "
            "is about `window` times the value for a mean loss."
        ),
    )
    clipvalue: float | None = Field(
        None, gt=0, description="Maximum absolute value of a component of this gradient."
    )
    seed: int = Field(1, ge=0, description="Seed of the initial weights, dropout and data order.")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:N."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 if it is faster on the device, else fp32."
    )
    cuda_graph: bool = Field(
        False,
        description=(
            "GPU: record one step as a CUDA graph and replay it. It needs adamw, adam "
            "or muon, one process, no adaptive softmax and no learned initial state; "
            "otherwise it has no effect. Not yet tested on a GPU."
        ),
    )
    evaluations: int = Field(
        5,
        ge=1,
        description=(
            "Number of evaluations on the validation split, at equal distances over "
            "the budget; the last is at its end."
        ),
    )
    evaluation_share: float | None = Field(
        0.2,
        gt=0,
        lt=1,
        description=(
            "Budget of minutes: maximum time of all evaluations, as a fraction of the budget. "
            "If the first evaluation takes longer than its part of this time, a part of the "
            "validation split is scored during training. null: always the whole split."
        ),
    )
    patience: int | None = Field(
        None, ge=1, description="Stop after N evaluations without a new best."
    )
    on_divergence: Literal["stop", "halve"] = Field(
        "stop",
        description=(
            "If the loss is not finite: stop: end the run; halve: return to the last "
            "good evaluation and halve the learning rate."
        ),
    )
    halvings: int = Field(
        3, ge=1, le=100, description="halve: maximum number of times; after that, the run ends."
    )
    gradient_compression: Literal["none", "bf16"] = Field(
        "none",
        description=(
            "Several processes: exchange gradients in fp32 (none) or in half the bytes (bf16)."
        ),
    )
    timeout_seconds: float = Field(
        300.0,
        gt=0,
        le=86400,
        description=(
            "Several processes: seconds that a process waits for the others before it "
            "ends with an error."
        ),
    )

    @model_validator(mode="after")
    def _has_one_budget(self) -> "Training":
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(given)}: only one budget is possible; keep one of them"
            )
        if not given:
            object.__setattr__(self, "minutes", 1.0)
        return self

    @property
    def budget(self) -> tuple[str, float]:
        """Unit and amount of the budget: the one of minutes, steps and epochs that is set."""
        amounts = {name: getattr(self, name) for name in BUDGETS}
        return next((name, amount) for name, amount in amounts.items() if amount is not None)


class Checkpoint(Section):
    """When checkpoints are saved."""

    save_seconds: float = Field(
        30.0,
        gt=0,
        description=(
            "Seconds between two saves of last/, in addition to the save at each "
            "evaluation. A crash loses at most this time."
        ),
    )
    save_share: float | None = Field(
        0.03,
        gt=0,
        lt=1,
        description=(
            "Maximum fraction of the training time spent on saving; saves are delayed "
            "to stay below it, except the last one. null: no limit."
        ),
    )


class Task(Section):
    """What the network learns. Options of other kinds are rejected."""

    kind: TaskKind = Field(
        "language_model",
        description=(
            "language_model: predict each token of a text; complete: write the target of a source; "
            "translate: the same with an encoder and a decoder; classify: one label for each text; "
            "tag: one label for each token. (docs/tasks.md)"
        ),
    )
    attention: Literal["none", "additive"] = Field(
        "additive",
        description=(
            "translate: what the decoder sees of the source. none: only the last state of the "
            "encoder, which it starts from; additive: also a weighted mean of the states after all "
            "source tokens (Bahdanau et al. 2015)."
        ),
    )
    pooling: Literal["last", "mean", "max"] = Field(
        "mean",
        description=(
            "classify: what the label is read from: the last state, or the mean or the maximum of "
            "the states over time."
        ),
    )

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options of this kind."""
        return TASK_OPTIONS.get(self.kind, ())

    @property
    def has_pairs(self) -> bool:
        """Whether a record is a source and a target."""
        return self.kind != "language_model"

    @property
    def has_labels(self) -> bool:
        """Whether the targets are labels of a fixed set, and no text."""
        return self.kind in ("classify", "tag")

    @property
    def writes_targets(self) -> bool:
        """Whether the targets are texts, which a trained model writes."""
        return self.has_pairs and not self.has_labels

    @property
    def directions(self) -> tuple[str, ...]:
        """Directions in which the sources of pairs can be read."""
        return ("forward",) if self.kind == "complete" else ("forward", "both")

    def fields_shown(self) -> list[str]:
        """Return `kind` and the names of its options."""
        return ["kind", *self.options]

    @model_validator(mode="after")
    def _has_only_options_of_its_kind(self) -> "Task":
        owners = {option: kind for kind, options in TASK_OPTIONS.items() for option in options}
        for name, owner in owners.items():
            value, default = getattr(self, name), type(self).model_fields[name].default
            if name not in self.options and value != default:
                raise ValueError(f"{name}: is an option of {owner}, not of {self.kind}; remove it")
        return self


# Settings that a task cannot have, by section and field: the only possible values, and whether
# this holds for labels only.
_POSSIBLE_IN_TASKS: tuple[tuple[str, str, tuple[object, ...], bool], ...] = (
    ("corpus", "mode", (None, "records"), False),
    ("corpus", "field", (None,), False),
    ("training", "replay", (0.0,), False),
    ("model", "mixture", (1,), True),
    ("model", "adaptive_cutoffs", ((),), True),
    ("model", "tied", (False,), True),
    ("training", "activation_regularization", (0.0,), True),
    ("training", "temporal_regularization", (0.0,), True),
)


class Config(Section):
    """The configuration of an experiment; `load_config` makes one from a file and overrides."""

    corpus: Corpus = Field(Corpus.model_validate({}), description="The text.")
    tokenizer: Tokenizer = Field(
        Tokenizer.model_validate({}), description="How text is divided into tokens."
    )
    task: Task = Field(Task.model_validate({}), description="What the network learns.")
    model: Model = Field(Model.model_validate({}), description="The network.")
    training: Training = Field(
        Training.model_validate({}), description="How the network is trained."
    )
    checkpoint: Checkpoint = Field(
        Checkpoint.model_validate({}), description="When checkpoints are saved."
    )

    @model_validator(mode="after")
    def _has_training_text(self) -> "Config":
        held_out = (self.corpus.valid_share or 0) + (self.corpus.test_share or 0)
        if held_out >= 1:
            raise ValueError(
                "corpus.valid_share and corpus.test_share: leave no training text; "
                f"their sum must be less than 1, got {held_out}"
            )
        return self

    @model_validator(mode="after")
    def _settings_suit_the_task(self) -> "Config":
        task = self.task
        if not task.has_pairs:
            for name in ("source", "target"):
                if getattr(self.corpus, name) is not None:
                    raise ValueError(
                        f"corpus.{name}: has no effect without a task, got "
                        f"{getattr(self.corpus, name)!r:.60}; set task.kind, or remove it"
                    )
            return self
        for section, field, possible, for_labels in _POSSIBLE_IN_TASKS:
            value = getattr(getattr(self, section), field)
            if value not in possible and (task.has_labels or not for_labels):
                raise ValueError(
                    f"{section}.{field}: is not possible with task.kind: {task.kind}, got "
                    f"{value!r:.60}; remove it"
                )
        if self.model.direction not in task.directions:
            raise ValueError(
                f"model.direction: must be {' or '.join(task.directions)} with task.kind: "
                f"{task.kind}, got {self.model.direction}; change one of the two"
            )
        return self


class ResolvedConfig(Config):
    """A configuration in which every field of the corpus has a value; a run is made from it."""

    corpus: ResolvedCorpus = Field(description="The text.")
