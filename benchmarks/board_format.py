"""Format of the board's JSON: one file per machine and text, with one row per training.

A file of a wrong form, or with a row that breaks a rule of docs/board.md, is rejected.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from charlm.storage.atomic import atomic_write

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
_LONGEST, _LONGEST_STEP = 1.02, 2.0  # A training ends with the step in which its time is over.
_CHANGED = 0.1  # A change of speed by more than this fraction is pointed out.


def _one_line(text: str) -> str:
    """Refuse text that would break a table of the page."""
    if not text.strip() or not text.isprintable() or set(text) & set("|<>`[]"):
        raise ValueError("must be one line without | < > ` [ ]")
    return text


Words = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]


class _Record(BaseModel):
    """A frozen object of the JSON that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Speed(_Record):
    """Speed of the machine at one time, in GFLOP/s.

    Attributes:
        product_fp32: Product of two square matrices of 2,048 rows, in fp32.
        product_bf16: The same in bf16.
        lstm: Forward and backward pass of `torch.nn.LSTM`, 512 units, batch 32, window 64, fp32.
    """

    product_fp32: Positive
    product_bf16: Positive
    lstm: Positive


class Row(_Record):
    """One training of one contestant.

    Attributes:
        contestant: Name of the contestant.
        source: Address of its program; None for a program of this repository.
        version: Version of the program: for those of this repository that of charlm.
        settings: Settings in a few words.
        minutes: Training time that it was given.
        seed: Seed.
        loss_nats: Nats of all characters of the held-out text / their number.
        parameters: Number of parameters.
        steps: Number of optimization steps.
        training_seconds: Time of the training.
        total_seconds: Time of the program, from its start to its result.
        speed_before: Speed of the machine before the program.
        speed_after: Speed of the machine after it.
    """

    contestant: Words
    source: Words | None = None
    version: Words
    settings: Words
    minutes: Positive
    seed: Annotated[int, Field(ge=0)]
    loss_nats: Positive
    parameters: Count
    steps: Count
    training_seconds: Positive
    total_seconds: Positive
    speed_before: Speed
    speed_after: Speed

    @property
    def key(self) -> tuple[str, float, int]:
        """Contestant, minutes and seed, which are the same in no two rows of a file."""
        return self.contestant, self.minutes, self.seed

    @property
    def changed_speeds(self) -> list[str]:
        """Fields of the speeds that differ by more than a tenth before and after the program."""
        before, after = self.speed_before.model_dump(), self.speed_after.model_dump()
        return [name for name in before if abs(after[name] / before[name] - 1) > _CHANGED]

    @model_validator(mode="after")
    def _keeps_to_its_time(self) -> "Row":
        longest = max(_LONGEST * 60 * self.minutes, 60 * self.minutes + _LONGEST_STEP)
        if self.training_seconds > longest:
            raise ValueError(
                f"training_seconds: must be at most {longest:.1f} for {self.minutes:g} minutes, "
                f"got {self.training_seconds:.1f}"
            )
        if self.total_seconds < self.training_seconds:
            raise ValueError("total_seconds: must not be less than training_seconds")
        return self


class Text(_Record):
    """The text, whose last tenth is held out.

    Attributes:
        name: Name of the file.
        sha256: Digest of the whole file.
        training_characters: Number of characters to train on.
        held_out_characters: Number of characters to score.
    """

    name: Words
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    training_characters: Count
    held_out_characters: Count


class Machine(_Record):
    """The machine, and the versions in use.

    Attributes:
        processor: Model of the processor.
        cores: Number of cores.
        threads: Number of threads of each contestant.
        python: Version of Python.
        torch: Version of torch.
    """

    processor: Words
    cores: Count
    threads: Count
    python: Words
    torch: Words


class Board(_Record):
    """All trainings on one text and machine.

    Attributes:
        format: Version of the format.
        text: The text.
        machine: The machine.
        rows: One per training.
    """

    format: Literal[1] = 1
    text: Text
    machine: Machine
    rows: tuple[Row, ...] = ()

    @model_validator(mode="after")
    def _repeats_no_row(self) -> "Board":
        keys = [row.key for row in self.rows]
        repeated = {key for key in keys if keys.count(key) > 1}
        if repeated:
            raise ValueError(f"rows: contestant, minutes and seed are repeated: {min(repeated)}")
        return self

    def with_row(self, row: Row) -> "Board":
        """Return the board with one more row."""
        return Board(text=self.text, machine=self.machine, rows=(*self.rows, row))


def read_board(path: Path) -> Board:
    """Read a file of the board.

    Raises:
        pydantic.ValidationError: The file has another form, or a row breaks a rule.
    """
    return Board.model_validate_json(path.read_bytes())


def write_board(path: Path, board: Board) -> None:
    """Write a file of the board; it is complete or unchanged, whenever the program is stopped."""
    with atomic_write(path) as file:
        file.write(f"{board.model_dump_json(indent=1)}\n".encode())
