"""The field `model.cell`: the recurrence and its options."""

from difflib import get_close_matches
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from charlm.config.section import MAX_UNITS, SectionOfKinds, as_list
from charlm.config.values import checked
from charlm.errors import OptionError

CELL_KINDS = (
    *("bag", "elman", "gru", "lstm", "nested_lstm", "mogrifier_lstm"),
    *("min_gru", "min_lstm", "rg_lru", "hgrn"),
    *("slstm", "diagonal_gru", "diagonal_lstm"),
)
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
_WORDS = {
    **{"bag": "bag of tokens", "elman": "Elman", "gru": "GRU", "hgrn": "HGRN", "lru": "LRU"},
    **{"lstm": "LSTM", "rg": "RG", "slstm": "sLSTM"},
}
_registered_kinds: set[str] = set()


def cell_title(kind: str) -> str:
    """Return the name of a kind of cell in a sentence.

    >>> cell_title("lstm"), cell_title("min_gru")
    ('LSTM', 'min GRU')
    """
    return " ".join(_WORDS.get(word, word) for word in kind.split("_"))


@checked
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


def as_cell(value: object) -> object:
    """Accept `lstm` for `{kind: lstm}`."""
    return {"kind": value} if isinstance(value, str) else value


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


class Cell(SectionOfKinds):
    """The recurrent cell. `cell: gru` is short for `cell: {kind: gru}`.

    Options of other kinds are rejected.
    """

    OPTIONS = CELL_OPTIONS
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
        le=MAX_UNITS,
        description=(
            "mogrifier_lstm: rank of the matrices of these gates; null for full matrices."
        ),
    )

    @property
    def is_plain(self) -> bool:
        """Whether every option of this kind has its default."""
        return all(map(self.has_default, self.options))

    @field_validator("kind")
    @classmethod
    def _kind_is_registered(cls, kind: str) -> str:
        known = (*CELL_KINDS, *sorted(_registered_kinds))
        if kind not in known:
            near = get_close_matches(kind.lower().replace("-", "_"), known, n=1)
            hint = f"nearest: {near[0]}; " if near else ""
            raise ValueError(
                f"no cell is named {kind!r:.60} ({hint}known: {', '.join(known)}); correct the "
                "name, or, in a Python program, call charlm.register_cell for it first"
            )
        return kind

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
