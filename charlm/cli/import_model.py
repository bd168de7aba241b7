"""`charlm import`: a run from a model that was trained with torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from charlm.cli.arguments import options_from
from charlm.cli.options import Json, as_new_path, as_path, some_text
from charlm.cli.terminal import emit_result, say
from charlm.errors import OptionError

Weights = Annotated[
    Path,
    typer.Argument(
        metavar="FILE.safetensors", parser=as_path, help="State dict saved with safetensors."
    ),
]
Cell = Annotated[
    Literal["lstm", "gru", "elman"] | None,
    typer.Option(help="Layers of the file: nn.LSTM, nn.GRU, or nn.RNN (elman)."),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=as_path,
        help="tokenizer.json of charlm; or the characters of the model in the order of their "
        "ids: a JSON list, a JSON object from characters to ids, or a text file with each "
        "character once.",
    ),
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", parser=as_new_path, help="Run folder to create.")
]
TextFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=as_path,
        help="Text to score. Its beginning is also scored with every other order of the gates.",
    ),
]
Gates = Annotated[
    str | None,
    typer.Option(
        callback=some_text,
        help="Order of the gates in the file: the letters i, f, g, o (g is the candidate) of "
        "an LSTM, r, z, n of a GRU. [that of torch: ifgo, rzn]",
    ),
]
Activation = Annotated[
    Literal["tanh", "relu"] | None, typer.Option(help="Activation function of nn.RNN (elman).")
]
Eos = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        callback=some_text,
        help=r"Token of a list that the model reads before a text, such as '\n'. With records, "
        "or if it is longer than one character, it also ends a text.",
    ),
]
Unknown = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        callback=some_text,
        help="Token of a list that stands for unknown characters. [none]",
    ),
]
Mode = Annotated[Literal["stream", "records"], typer.Option(help="How the model reads texts.")]
Embedding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=some_text,
        help="Tensor that is the embedding, or none. [by shape and name]",
    ),
]
Projection = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        callback=some_text,
        help="Tensor that is the matrix of the projection. [by shape and name]",
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME",
        callback=some_text,
        help="Beginnings of the names of the layers, in order. [by their numbers]",
    ),
]


@dataclass(frozen=True)
class ImportArguments:
    """The arguments of `charlm import`, in the order of its help."""

    weights: Weights
    cell: Cell = None
    tokenizer: Tokenizer = None
    out: Out = None
    text_file: TextFile = None
    gates: Gates = None
    activation: Activation = None
    eos: Eos = None
    unknown: Unknown = None
    mode: Mode = "stream"
    embedding: Embedding = None
    projection: Projection = None
    layers: Layers = None
    as_json: Json = False


# Arguments of the command that `import_run` takes as they are.
_PASSED_ON = (
    *("weights", "cell", "tokenizer", "out", "gates", "activation", "eos", "unknown", "mode"),
    *("embedding", "projection"),
)


@options_from(ImportArguments)
def import_model(arguments: ImportArguments) -> None:
    """Make a run of a model that was trained with torch: it can be sampled, scored and exported.

    The file has the tensors of an embedding, of nn.LSTM, nn.GRU or nn.RNN, and of a projection.
    charlm prints what each tensor is, and asks for an option where that is not clear.

    Try: charlm import lstm.safetensors --cell lstm --tokenizer tokenizer.json --out runs/mine
    """
    from charlm.export.importing import import_run

    for needed in ("cell", "tokenizer", "out"):
        if getattr(arguments, needed) is None:
            raise OptionError(needed, "is missing; see charlm import --help")
    result = import_run(**_import_options(arguments))
    if result.is_no_better_than_uniform:
        say(
            "warning: the text costs as much as with a uniform distribution, so the tokenizer, the "
            "cell or the text does not fit the weights"
        )
    emit_result(result, as_json=arguments.as_json)


def _import_options(arguments: ImportArguments) -> dict[str, Any]:
    """Return the arguments of `import_run`."""
    from charlm.evaluation.text_files import read_text_file

    options = {name: getattr(arguments, name) for name in _PASSED_ON}
    layers, text_file = arguments.layers, arguments.text_file
    options["layers"] = tuple(layers.split(",")) if layers else ()
    if text_file is not None:
        options["text"] = read_text_file(text_file, remedy="correct the path")
    return options
