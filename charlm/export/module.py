"""A trained model as one module of torch that does not need charlm: its source and its weights."""

import importlib.util
import re
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from torch import Tensor

from charlm.config.model import Model as ModelSection
from charlm.export.description import describe_model
from charlm.export.equations import CellSource, cell_source
from charlm.model.cells.hgrn import HGRN
from charlm.model.ngrams import FACTOR, PRIME
from charlm.runs.checkpoint import weights_of
from charlm.trained_model import TrainedModel
from charlm.version import VERSION

# Pattern of the beginning of a name in files of charlm → its replacement in the module.
_NAMES = [
    (r"recurrence\.cells\.(\d+)\.kernel\.", r"layers.\1."),
    (r"recurrence\.cells\.(\d+)\.peepholes\.(\w+)\.weight", r"layers.\1.peephole_\2"),
    (r"recurrence\.cells\.(\d+)\.diagonals\.weight", r"layers.\1.diagonals"),
    (r"recurrence\.cells\.", "layers."),
    (r"recurrence\.(norms|initial|blocks)\.", r"\1."),
    (r"bridge\.", "output_adapter."),
    (r"projection\.layers\.", "projection."),
    (r"projection\.(prior|latent)\.", r"\1."),
]
_INDENT = " " * 8
_CONSTRUCTOR = (
    "    def __init__(self, vocabulary_size: int, embedding_size: int, "
    "hidden_sizes: list[int]) -> None:"
)


def module_tensors(trained: TrainedModel) -> dict[str, Tensor]:
    """Return the weights by their names in the module, contiguous and on the processor.

    A matrix that embedding and projection share occurs once, as that of the embedding.
    """
    tensors = {
        _name_in_module(name, trained.config.model): tensor.cpu().contiguous()
        for name, tensor in weights_of(trained.model).items()
    }
    for number, cell in enumerate(trained.model.encoder.recurrence.layers):
        if isinstance(cell, HGRN):  # The module has no layer that depends on the others.
            tensors[f"layers.{number}.bound"] = cell.lower_bound().detach().cpu()
    return tensors


def _name_in_module(name: str, section: ModelSection) -> str:
    if section.tied and name == "projection.bias":
        return "bias"
    for pattern, replacement in _NAMES:
        if re.match(pattern, name):
            renamed = re.sub(pattern, replacement, name, count=1)
            is_matrix = ".peephole_" in renamed and section.cell.peephole_weights == "full"
            if section.block == "griffin":
                renamed = re.sub(r"norms\.\d+\.", "norm.", renamed)
            return f"{renamed}.weight" if is_matrix else renamed
    return name


def module_config(trained: TrainedModel) -> dict[str, Any]:
    """Return the facts that the module needs besides its weights, and what the model is."""
    section = trained.config.model
    return {
        "vocabulary_size": trained.tokenizer.vocabulary_size,
        "embedding_size": trained.model.encoder.embedding_size,
        "hidden_sizes": [cell.hidden_size for cell in trained.model.encoder.recurrence.layers],
        "cell": section.cell.model_dump(include={"kind", *section.cell.options}),
        "mode": trained.mode,
        "direction": section.direction,
        "level": trained.tokenizer.section.level,
        "title": describe_model(trained, "fp32").title,  # Names of files without their folders.
        "charlm_version": VERSION,
    }


def language_model_source(section: ModelSection, *, masked: bool = False) -> str:
    """Return the type of a state, the class of the cell, and that of the language model.

    The source contains numbers of the configuration, but no text of it.

    Args:
        section: The network.
        masked: Whether the model can be told which tokens are padding.
    """
    cell = cell_source(section.cell)
    count = "One tensor" if cell.num_states == 1 else f"{cell.num_states} tensors"
    lines = [
        f"# {count} per layer, (batch, hidden); the first is the output of the layer.",
        *(["# At last, the last ids, (batch, order - 1)."] if section.ngrams else []),
        "State = tuple[Tensor, ...]",
        "Outputs = tuple[Tensor, list[State]]  # Of a window or token, and the states after it.",
        "",
        cell.source,
        *([_GRIFFIN_BLOCK] if section.block == "griffin" else []),
        *_LanguageModel(section, cell, masked=masked).lines(),
    ]
    return "\n".join(lines)


def import_file(path: Path, name: str) -> Any:
    """Return the module in a file that charlm wrote; it is not registered under its name."""
    loader = _Loader(name, str(path))
    specification = importlib.util.spec_from_file_location(name, path, loader=loader)
    if specification is None:
        raise ValueError(f"{path} is not a module")
    module = importlib.util.module_from_spec(specification)
    loader.exec_module(module)
    return module


class _Loader(SourceFileLoader):
    """Loads a module without leaving its compiled form beside it."""

    def set_data(self, *arguments: object, **names: object) -> None:
        """Write nothing."""


class _LanguageModel:
    """Lines of the class of the model, with no part that it does not have."""

    def __init__(self, section: ModelSection, cell: CellSource, *, masked: bool) -> None:
        self._section = section
        self._forward = _FORWARD_WITH_MASK if masked else _FORWARD
        self._cell = cell
        self._is_deep = len(section.hidden_sizes) > 1
        self._skip = section.skip if self._is_deep else "none"
        self._is_one_hot = section.embedding == "one_hot"
        self._has_blocks = section.block == "griffin"
        self._units = "stream_size" if section.cell.kind == "bag" else "size"
        self._width = "stream_size" if self._has_blocks else "hidden_sizes[-1]"

    def lines(self) -> Iterator[str]:
        """Yield the lines."""
        yield "\nclass LanguageModel(nn.Module):"
        yield '    """Token ids and states to logits of the next tokens and the states after."""'
        yield ""
        yield _CONSTRUCTOR
        yield from self._indented(self._constructor())
        yield ""
        yield from self._forward.splitlines()
        yield ""
        if self._section.ngrams:
            method = _NGRAMS.replace("@factor@", str(FACTOR)).replace("@prime@", str(PRIME))
            for name in ("ngrams", "ngram_buckets"):
                method = method.replace(f"@{name}@", str(getattr(self._section, name)))
            yield from method.splitlines()
            yield ""
        yield "    def step(self, ids: Tensor, states: list[State]) -> Outputs:"
        yield '        """Read one token: (batch,) -> features, (batch, hidden), and the states."""'
        yield from self._indented(self._step())
        yield ""
        yield "    def logits(self, features: Tensor) -> Tensor:"
        yield '        """Return logits over the vocabulary: (..., hidden) -> (..., vocabulary)."""'
        yield from self._indented(self._logits())
        yield ""
        yield "    def initial_states(self, batch_size: int) -> list[State]:"
        yield '        """Return the states before the first token of a text, which is <EOS>."""'
        yield from self._indented(self._initial_states())

    def _indented(self, lines: Iterator[str]) -> Iterator[str]:
        return (_INDENT + line if line else "" for line in lines)

    def _constructor(self) -> Iterator[str]:
        yield "super().__init__()"
        yield from self._embedding()
        yield from self._layers()
        if self._has_blocks:
            sizes = f"stream_size, {self._units}, {self._section.mlp_expansion}"
            yield f"blocks = [GriffinBlock({sizes}) for size in hidden_sizes]"
            yield "self.blocks = nn.ModuleList(blocks)"
            yield "self.norm = nn.RMSNorm(stream_size, eps=1e-6)"
        if self._section.layer_norm:
            yield "self.norms = nn.ModuleList(nn.LayerNorm(size) for size in hidden_sizes)"
        if self._section.initial_state == "learned":
            yield "self.initial = nn.ModuleList("
            tensors = f"nn.Parameter(torch.zeros(size)) for _ in range({self._cell.num_states})"
            yield f"    nn.ParameterList({tensors})"
            yield "    for size in hidden_sizes"
            yield ")"
        yield from self._projection()

    def _embedding(self) -> Iterator[str]:
        section = self._section
        if self._is_one_hot:
            yield "self.vocabulary_size = vocabulary_size"
        else:
            yield "self.embedding = nn.Embedding(vocabulary_size, embedding_size)"
        yield "self.hidden_sizes = hidden_sizes"
        if section.ngrams:
            rows = f"{section.ngrams - 1} * {section.ngram_buckets}"
            yield f"self.ngrams = nn.Embedding({rows}, {section.ngram_width})"

    def _layers(self) -> Iterator[str]:
        width = f" + {self._ngrams_width}" if self._section.ngrams else ""
        if self._has_blocks:
            yield f"stream_size = embedding_size{width}"
            yield "input_sizes = [stream_size] * len(hidden_sizes)"
        else:
            yield f"input_sizes = [embedding_size{width}, *hidden_sizes[:-1]]"
        sizes = "zip(input_sizes, hidden_sizes, strict=True)"
        yield "self.layers = nn.ModuleList("
        yield f"    {self._cell.name}(*sizes) for sizes in {sizes}"
        yield ")"

    def _projection(self) -> Iterator[str]:
        section = self._section
        if section.adaptive_cutoffs:
            cutoffs = list(section.adaptive_cutoffs)
            yield "# The adaptive softmax of Grave et al. 2017 (arXiv:1609.04309)."
            yield "self.projection = nn.AdaptiveLogSoftmaxWithLoss("
            sizes = f"{self._width}, vocabulary_size, {cutoffs}"
            yield f"    {sizes}, div_value=4.0, head_bias=True"
            yield ")"
            return
        width = self._width
        if section.mixture > 1:
            width = "embedding_size"
            count = section.mixture
            yield f"self.prior = nn.Linear({self._width}, {count}, bias=False)"
            yield f"self.latent = nn.Linear({self._width}, {count} * embedding_size)"
        elif self._has_adapter:
            yield f"self.output_adapter = nn.Linear({width}, embedding_size, bias=False)"
        if section.tied:
            yield "self.bias = nn.Parameter(torch.zeros(vocabulary_size))"
        else:
            yield f"self.projection = nn.Linear({width}, vocabulary_size)"

    @property
    def _ngrams_width(self) -> int:
        """Number of values that the n-grams add to an embedding."""
        section = self._section
        return (section.ngrams - 1) * section.ngram_width if section.ngrams else 0

    @property
    def _has_adapter(self) -> bool:
        section = self._section
        output = section.hidden_sizes[-1]
        if section.cell.kind == "bag" or self._has_blocks:
            output = section.embedding_size + self._ngrams_width
        return section.tied and section.mixture == 1 and output != section.embedding_size

    def _step(self) -> Iterator[str]:
        yield from self._embed()
        yield "states_after = []"
        yield from self._step_blocks() if self._has_blocks else self._step_layers()

    def _embed(self) -> Iterator[str]:
        if self._is_one_hot:
            yield "weights = next(self.parameters())"
            yield "x = F.one_hot(ids, self.vocabulary_size).to(weights.dtype)"
        else:
            yield "x = self.embedding(ids)"
        if self._section.ngrams:
            yield "*states, (last,) = states"
            yield "rows, last = self.read_ngrams(ids, last)"
            yield "x = torch.cat([x, rows], dim=-1)"

    def _step_blocks(self) -> Iterator[str]:
        yield "for block, layer, state in zip(self.blocks, self.layers, states, strict=True):"
        yield "    normalized = block.mixing_norm(x)"
        yield "    state = layer.step(normalized, state)"
        yield "    states_after.append(state)"
        yield "    x = block(x, normalized, state[0])"
        if self._section.ngrams:
            yield "states_after.append((last,))"
        yield "return self.norm(x), states_after"

    def _step_layers(self) -> Iterator[str]:
        has_norm = self._section.layer_norm
        if self._skip == "sum":
            yield "total = 0.0"
        is_numbered = self._is_deep and (has_norm or self._skip == "residual")
        if is_numbered:
            yield "for number, (layer, state) in enumerate(zip(self.layers, states, strict=True)):"
        else:
            yield "for layer, state in zip(self.layers, states, strict=True):"
        layer_input = "x"
        if is_numbered and has_norm:
            yield "    layer_input = self.norms[number - 1](x) if number else x"
            layer_input = "layer_input"
        yield f"    state = layer.step({layer_input}, state)"
        yield "    states_after.append(state)"
        is_residual = self._skip == "residual"
        yield f"    x = {'x + state[0] if number else state[0]' if is_residual else 'state[0]'}"
        if self._skip == "sum":
            yield "    total = total + x"
        if self._section.ngrams:
            yield "states_after.append((last,))"
        features = "total" if self._skip == "sum" else "x"
        result = f"self.norms[-1]({features})" if has_norm else features
        yield f"return {result}, states_after"

    def _logits(self) -> Iterator[str]:
        section = self._section
        if section.adaptive_cutoffs:
            yield "log_p = self.projection.log_prob(features.flatten(0, -2))"
            yield "return log_p.view(*features.shape[:-1], -1)"
            return
        weights = "self.embedding.weight" if section.tied else "self.projection.weight"
        bias = "self.bias" if section.tied else "self.projection.bias"
        if section.mixture > 1:
            yield "# A mixture of softmaxes (Yang et al. 2018, arXiv:1711.03953)."
            yield "prior = torch.log_softmax(self.prior(features), dim=-1)"
            yield f"latent = self.latent(features).unflatten(-1, ({section.mixture}, -1))"
            yield f"logits = F.linear(torch.tanh(latent), {weights}, {bias})"
            yield "log_p = torch.log_softmax(logits, dim=-1)"
            yield "return torch.logsumexp(prior.unsqueeze(-1) + log_p, dim=-2)"
        elif section.tied:
            if self._has_adapter:
                yield "features = self.output_adapter(features)"
            yield "return F.linear(features, self.embedding.weight, self.bias)"
        else:
            yield "return self.projection(features)"

    def _initial_states(self) -> Iterator[str]:
        if self._section.initial_state == "learned":
            state = "tuple(tensor.expand(batch_size, -1) for tensor in layer)"
            layers = f"[{state} for layer in self.initial]"
        else:
            count = self._cell.num_states
            yield "weights = next(self.parameters())"
            times = f" * {count}" if count > 1 else ""
            state = f"(weights.new_zeros(batch_size, size),){times}"
            layers = f"[{state} for size in self.hidden_sizes]"
        if not self._section.ngrams:
            yield f"return {layers}"
            return
        yield f"parts = {layers}"
        yield f"last = self.ngrams.weight.new_zeros(batch_size, {self._section.ngrams - 1})"
        yield "return [*parts, (last,)]"


_NGRAMS = '''\
    def read_ngrams(self, ids: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of hash tables for the n-grams that end with ids, and the last ids.

        As in Pagnoni et al. 2024 (arXiv:2412.09871); no n-gram crosses an <EOS>, id 0.
        """
        keys = newer = ids
        rows = []
        for distance in range(1, @ngrams@):
            older = last[:, -distance].long() * newer.sign()
            keys = (keys * @factor@ + older) % @prime@
            rows.append(keys % @ngram_buckets@ + (distance - 1) * @ngram_buckets@)
            newer = older
        last = torch.cat([last[:, 1:], ids[:, None].to(last.dtype)], dim=1)
        return self.ngrams(torch.stack(rows, dim=1)).flatten(1), last'''
_GRIFFIN_BLOCK = '''
class GriffinBlock(nn.Module):
    """The residual block of De et al. 2024 (arXiv:2402.19427) around a recurrence R.

    x <- x + W_o (gelu(W_g n) * R(n)), n = norm(x)
    x <- x + V_o (gelu(V_g m) * V_x m), m = norm(x)
    """

    def __init__(self, stream_size: int, hidden_size: int, expansion: int) -> None:
        super().__init__()
        mlp_size = expansion * stream_size
        self.mixing_norm = nn.RMSNorm(stream_size, eps=1e-6)
        self.gate = nn.Linear(stream_size, hidden_size, bias=False)
        self.output = nn.Linear(hidden_size, stream_size, bias=False)
        self.mlp_norm = nn.RMSNorm(stream_size, eps=1e-6)
        self.mlp_input = nn.Linear(stream_size, 2 * mlp_size, bias=False)
        self.mlp_output = nn.Linear(mlp_size, stream_size, bias=False)

    def forward(self, x: Tensor, normalized: Tensor, y: Tensor) -> Tensor:
        """Add to the stream what the recurrence, with this input and output, and the MLP give."""
        x = x + self.output(F.gelu(self.gate(normalized), approximate="tanh") * y)
        gate, value = self.mlp_input(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.mlp_output(F.gelu(gate, approximate="tanh") * value)
'''
_FORWARD = '''\
    def forward(self, ids: Tensor, states: list[State] | None = None) -> Outputs:
        """Read a window.

        Args:
            ids: Token ids, (time, batch). A text begins with <EOS>, id 0.
            states: States before the window; None for the initial states.

        Returns:
            Logits of the token after each token, (time, batch, vocabulary), and states.
        """
        if states is None:
            states = self.initial_states(ids.shape[1])
        outputs = []
        for tokens in ids:
            output, states = self.step(tokens, states)
            outputs.append(output)
        return self.logits(torch.stack(outputs)), states'''
_FORWARD_WITH_MASK = '''\
    def forward(self, ids: Tensor, states: list[State], mask: Tensor) -> Outputs:
        """Read a window.

        Args:
            ids: Token ids, (time, batch).
            states: States before the window.
            mask: False where a token is padding: it is not read, (time, batch).

        Returns:
            Logits of the token after each token, (time, batch, vocabulary), and states.
        """
        outputs = []
        for tokens, is_read in zip(ids, mask, strict=True):
            output, states_after = self.step(tokens, states)
            states = [
                tuple(torch.where(is_read[:, None], *pair) for pair in zip(*layer, strict=True))
                for layer in zip(states_after, states, strict=True)
            ]
            outputs.append(output)
        return self.logits(torch.stack(outputs)), states'''
