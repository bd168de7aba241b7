"""`charlm import`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from charlm.cli.options import Json, as_path, some_text
from charlm.cli.terminal import emit_result, say
from charlm.errors import OptionError

if TYPE_CHECKING:  # It imports torch.
    from charlm.export.importing import Import


def import_model(
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.safetensors", parser=as_path, help="State dict saved with safetensors."
        ),
    ],
    cell: Annotated[
        Literal["lstm", "gru", "elman"] | None,
        typer.Option(help="Layers of the file: nn.LSTM, nn.GRU, or nn.RNN (elman)."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=as_path,
            help="tokenizer.json of charlm; or the characters of the model in the order of their "
            "ids: a JSON list, or a text file with each character once.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", parser=as_path, help="Run folder to create.")
    ] = None,
    text_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=as_path,
            help="Text to score. Its beginning is also scored with every other order of the gates.",
        ),
    ] = None,
    gates: Annotated[
        str | None,
        typer.Option(
            callback=some_text,
            help="Order of the gates in the file: the letters i, f, g, o (g is the candidate) of "
            "an LSTM, r, z, n of a GRU. [that of torch: ifgo, rzn]",
        ),
    ] = None,
    activation: Annotated[
        Literal["tanh", "relu"] | None, typer.Option(help="elman: activation function.")
    ] = None,
    eos: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            callback=some_text,
            help=r"Token of a list that the model reads before a text, such as '\n'. With records, "
            "or if it is longer than one character, it also ends a text.",
        ),
    ] = None,
    unknown: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            callback=some_text,
            help="Token of a list that stands for unknown characters. [none]",
        ),
    ] = None,
    mode: Annotated[
        Literal["stream", "records"], typer.Option(help="How the model reads texts.")
    ] = "stream",
    embedding: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=some_text,
            help="Tensor that is the embedding, or none. [by shape and name]",
        ),
    ] = None,
    projection: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            callback=some_text,
            help="Tensor that is the matrix of the projection. [by shape and name]",
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            callback=some_text,
            help="Beginnings of the names of the layers, in order. [by their numbers]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a run of a model that was trained with torch: it can be sampled, scored and exported.

    The file has the tensors of an embedding, of nn.LSTM, nn.GRU or nn.RNN, and of a projection.
    charlm prints what each tensor is, and asks for an option where that is not clear.

    Try: charlm import lstm.safetensors --cell lstm --tokenizer tokenizer.json --out runs/mine
    """
    from charlm.evaluation.text_files import read_text_file
    from charlm.export.importing import import_run

    if cell is None or tokenizer is None or out is None:
        missing = "cell" if cell is None else "tokenizer" if tokenizer is None else "out"
        raise OptionError(missing, "is missing; see charlm import --help")
    result = import_run(
        weights,
        cell=cell,
        tokenizer=tokenizer,
        out=out,
        text=None if text_file is None else read_text_file(text_file, remedy="correct the path"),
        gates=gates,
        activation=activation,
        eos=eos,
        unknown=unknown,
        mode=mode,
        embedding=embedding,
        projection=projection,
        layers=tuple(layers.split(",")) if layers else (),
    )
    if result.is_no_better_than_uniform:
        say(
            "warning: the text costs as much as with a uniform distribution, so the tokenizer, the "
            "cell or the text does not fit the weights"
        )
    emit_result(result.to_json(), _lines(result), as_json=as_json)


def _lines(result: "Import") -> Iterator[str]:
    width = max(map(len, result.roles.values()))
    for name, role in result.roles.items():
        yield f"{role:<{width}}  {name}"
    for note in result.notes:
        yield f"{note}."
    yield f"{result.run}: {result.vocabulary_size:,} tokens"
    if result.loss_nats is not None:
        yield (
            f"{result.loss_nats:.4f} nats per token on {result.tokens:,} tokens of the text "
            f"(a uniform distribution: {result.uniform_nats:.4f})"
        )
