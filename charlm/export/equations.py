"""The cells as source code of torch: what an exported module contains instead of charlm.

Each source is one class with the equations of one recurrence and nothing else. Its parameters have
the names of torch's layer where torch has the recurrence, else those of `charlm.model.cells`.
"""

from typing import NamedTuple

from charlm.config.cell import Cell as CellSection
from charlm.export.lstm_variant import LSTMVariant

_BAG = '''
class Bag(nn.Module):
    """A bag of words written as a recurrence (Goldberg 2017, ch. 14): s <- s + x.

    The state is as wide as the input, and there are no weights.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()

    def step(self, x: Tensor, state: State) -> State:
        (total,) = state
        return (total + x,)
'''

_ELMAN = '''
class Elman(nn.RNN):
    """The simple recurrent network of Elman 1990, with the parameters of torch.nn.RNN.

    h <- {name}(W_ih x + b_ih + W_hh h + b_hh)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, nonlinearity="{name}")

    def step(self, x: Tensor, state: State) -> State:
        (hidden,) = state
        sums = F.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        sums = sums + F.linear(hidden, self.weight_hh_l0, self.bias_hh_l0)
        return (torch.{name}(sums),)
'''

_SIGMOID_ELMAN = '''
class Elman(nn.Module):
    """The simple recurrent network of Elman 1990 with the logistic function.

    h <- sigmoid(W_ih x + b + W_hh h)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, hidden_size)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)

    def step(self, x: Tensor, state: State) -> State:
        (hidden,) = state
        return (torch.sigmoid(self.input(x) + self.recurrent(hidden)),)
'''

_GRU = '''
class GRU(nn.GRU):
    """The GRU of Cho et al. 2014 (arXiv:1406.1078v1), with the parameters of torch.nn.GRU.

    r, u = sigmoid(W_ih x + b_ih + W_hh h + b_hh)
    c = tanh(W_ic x + b_ic + r * (W_hc h + b_hc))
    h <- (1 - u) * c + u * h
    """

    def step(self, x: Tensor, state: State) -> State:
        (hidden,) = state
        from_input = F.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        from_hidden = F.linear(hidden, self.weight_hh_l0, self.bias_hh_l0)
        reset_x, update_x, candidate_x = from_input.chunk(3, dim=-1)
        reset_h, update_h, candidate_h = from_hidden.chunk(3, dim=-1)
        reset = torch.sigmoid(reset_x + reset_h)
        update = torch.sigmoid(update_x + update_h)
        candidate = torch.tanh(candidate_x + reset * candidate_h)
        return (candidate + update * (hidden - candidate),)
'''

_RESET_BEFORE_GRU = '''
class GRU(nn.Module):
    """The GRU of Cho et al. 2014 (arXiv:1406.1078v3), section 2.3.

    r, u = sigmoid(W [h, x] + b)
    c = tanh(W_c [r * h, x] + b_c)
    h <- (1 - u) * c + u * h
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 3 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.candidate = nn.Linear(hidden_size, hidden_size, bias=False)

    def step(self, x: Tensor, state: State) -> State:
        (hidden,) = state
        reset_x, update_x, candidate_x = self.input(x).chunk(3, dim=-1)
        reset_h, update_h = self.recurrent(hidden).chunk(2, dim=-1)
        reset = torch.sigmoid(reset_x + reset_h)
        update = torch.sigmoid(update_x + update_h)
        candidate = torch.tanh(candidate_x + self.candidate(reset * hidden))
        return (candidate + update * (hidden - candidate),)
'''

_RESET_FREE_GRU = '''
class GRU(nn.Module):
    """The simplified GRU of textbooks, without a reset gate.

    u = sigmoid(W [h, x] + b)
    c = tanh(W_c [h, x] + b_c)
    h <- (1 - u) * c + u * h
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 2 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 2 * hidden_size, bias=False)

    def step(self, x: Tensor, state: State) -> State:
        (hidden,) = state
        update, candidate = (self.input(x) + self.recurrent(hidden)).chunk(2, dim=-1)
        update, candidate = torch.sigmoid(update), torch.tanh(candidate)
        return (candidate + update * (hidden - candidate),)
'''

_LSTM = '''
class LSTM(nn.LSTM):
    """The LSTM of Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000.

    i, f, o = sigmoid(W_ih x + b_ih + W_hh h + b_hh)
    g = tanh(W_ig x + b_ig + W_hg h + b_hg)
    c <- f * c + i * g
    h <- o * tanh(c)

    Names of the parameters and order of the gates (i, f, g, o) are those of torch.nn.LSTM.
    """

    def step(self, x: Tensor, state: State) -> State:
        hidden, memory = state
        sums = F.linear(x, self.weight_ih_l0, self.bias_ih_l0)
        sums = sums + F.linear(hidden, self.weight_hh_l0, self.bias_hh_l0)
        input_gate, forget_gate, candidate, output_gate = sums.chunk(4, dim=-1)
        memory = torch.sigmoid(forget_gate) * memory + torch.sigmoid(input_gate) * torch.tanh(
            candidate
        )
        return torch.sigmoid(output_gate) * torch.tanh(memory), memory
'''

_NESTED_LSTM = '''
class NestedLSTM(nn.Module):
    """The Nested LSTM of Moniz and Krueger 2018 (arXiv:1801.10308): {depth} levels.

    i, f, o = sigmoid(W [h, x] + b)
    z = W_z [h, x] + b_z
    c <- inner LSTM with the input i * z and the hidden state f * c
    h <- o * tanh(c)

    The innermost level is an LSTM: c <- f * c + i * tanh(z).
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        levels = range({inner})
        self.inner = nn.ModuleList(nn.Linear(2 * hidden_size, 4 * hidden_size) for _ in levels)

    def step(self, x: Tensor, state: State) -> State:
        hidden, *memories = state
        return self.step_level(0, self.input(x) + self.recurrent(hidden), memories)

    def step_level(self, level: int, sums: Tensor, memories: list[Tensor]) -> State:
        input_gate, forget_gate, output_gate, candidate = sums.chunk(4, dim=-1)
        input_gate, forget_gate = torch.sigmoid(input_gate), torch.sigmoid(forget_gate)
        memory, *inner_memories = memories
        if inner_memories:
            inner_input = torch.cat([input_gate * candidate, forget_gate * memory], dim=-1)
            inner_sums = self.inner[level](inner_input)
            memory, *inner_memories = self.step_level(level + 1, inner_sums, inner_memories)
        else:
            memory = forget_gate * memory + input_gate * torch.tanh(candidate)
        return torch.sigmoid(output_gate) * torch.tanh(memory), memory, *inner_memories
'''

_MOGRIFIER_LSTM = '''
class MogrifierLSTM(nn.Module):
    """The Mogrifier LSTM of Melis et al. 2020 (arXiv:1909.01792).

    In turn x <- 2 sigmoid(Q h) * x and h <- 2 sigmoid(R x) * h, {rounds} in all, each with a
    matrix of its own; then the step of an LSTM.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        sizes = [(hidden_size, input_size), (input_size, hidden_size)]
        self.mogrifier = nn.ModuleList(
            {round} for number in range({rounds})
        )

    def step(self, x: Tensor, state: State) -> State:
        hidden, memory = state
        for number, product in enumerate(self.mogrifier):
            if number % 2 == 0:
                x = 2 * torch.sigmoid(product(hidden)) * x
            else:
                hidden = 2 * torch.sigmoid(product(x)) * hidden
        sums = self.input(x) + self.recurrent(hidden)
        input_gate, forget_gate, candidate, output_gate = sums.chunk(4, dim=-1)
        memory = torch.sigmoid(forget_gate) * memory + torch.sigmoid(input_gate) * torch.tanh(
            candidate
        )
        return torch.sigmoid(output_gate) * torch.tanh(memory), memory
'''
_FULL_ROUND = "nn.Linear(*sizes[number % 2], bias=False)"
_LOW_RANK_ROUND = """nn.Sequential(
                nn.Linear(sizes[number % 2][0], {rank}, bias=False),
                nn.Linear({rank}, sizes[number % 2][1], bias=False),
            )
           """

_MIN_GRU = '''
class MinGRU(nn.Module):
    """The minGRU of Feng et al. 2024 (arXiv:2410.01201), section 3.1.

    z = sigmoid(W_z x + b_z)
    h <- (1 - z) * h + z * (W_h x + b_h)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 2 * hidden_size)

    def step(self, x: Tensor, state: State) -> State:
        (hidden,) = state
        update, candidate = self.input(x).chunk(2, dim=-1)
        return (torch.sigmoid(-update) * hidden + torch.sigmoid(update) * candidate,)
'''

_MIN_LSTM = '''
class MinLSTM(nn.Module):
    """The minLSTM of Feng et al. 2024 (arXiv:2410.01201), section 3.2, with normalized gates.

    f, i = sigmoid(W x + b), both divided by f + i
    h <- f * h + i * (W_h x + b_h)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 3 * hidden_size)

    def step(self, x: Tensor, state: State) -> State:
        (hidden,) = state
        forget_gate, input_gate, candidate = self.input(x).chunk(3, dim=-1)
        # f / (f + i) = sigmoid(log f - log i), which is not 0 / 0 with both gates closed.
        difference = F.logsigmoid(forget_gate) - F.logsigmoid(input_gate)
        return (torch.sigmoid(difference) * hidden + torch.sigmoid(-difference) * candidate,)
'''

_RG_LRU = '''
class RGLRU(nn.Module):
    """The RG-LRU of De et al. 2024 (arXiv:2402.19427), section 2.4, its input a map of x too.

    r, i = sigmoid(W x + b)
    log a = -8 r * softplus(decay)
    h <- a * h + sqrt(1 - a^2) * i * (W_h x + b_h)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 3 * hidden_size)
        self.decay = nn.Parameter(torch.zeros(hidden_size))

    def step(self, x: Tensor, state: State) -> State:
        (hidden,) = state
        recurrence_gate, input_gate, candidate = self.input(x).chunk(3, dim=-1)
        log_decay = -8 * F.softplus(self.decay) * torch.sigmoid(recurrence_gate)
        factor = torch.sqrt(-torch.expm1(2 * log_decay)) * torch.sigmoid(input_gate)
        return (torch.exp(log_decay) * hidden + factor * candidate,)
'''

_HGRN = '''
class HGRN(nn.Module):
    """The HGRU of Qin et al. 2023 (arXiv:2311.04823), its state real and without output gate.

    f = g + (1 - g) * sigmoid(W_f x + b_f)
    h <- f * h + (1 - f) * swish(W_h x + b_h)

    g, the lower bound of f, is a constant of the layer: 0 in the first one, then rising.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 2 * hidden_size)
        self.bound = nn.Parameter(torch.zeros(hidden_size))

    def step(self, x: Tensor, state: State) -> State:
        (hidden,) = state
        forget_gate, candidate = self.input(x).chunk(2, dim=-1)
        free = 1 - self.bound
        forget = self.bound + free * torch.sigmoid(forget_gate)
        return (forget * hidden + free * torch.sigmoid(-forget_gate) * F.silu(candidate),)
'''

_SLSTM = '''
class SLSTM(nn.Module):
    """The sLSTM of Beck et al. 2024 (arXiv:2405.04517), section 2.2.

    i, f, z, o = W [h, x] + b
    m' = max(i, m + log sigmoid(f))
    i = exp(i - m')
    f = exp(m + log sigmoid(f) - m')
    c <- f * c + i * tanh(z)
    n <- f * n + i
    h <- sigmoid(o) * c / n
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.recurrent = nn.Linear(hidden_size, 4 * hidden_size, bias=False)

    def step(self, x: Tensor, state: State) -> State:
        hidden, memory, normalizer, stabilizer = state
        sums = self.input(x) + self.recurrent(hidden)
        log_input, forget_sum, candidate, output = sums.chunk(4, dim=-1)
        log_forget = stabilizer + F.logsigmoid(forget_sum)
        stabilizer = torch.maximum(log_input, log_forget)
        input_gate = torch.exp(log_input - stabilizer)
        forget_gate = torch.exp(log_forget - stabilizer)
        # In every state that a step leads to, the normalizer is at least |memory|.
        normalizer = torch.maximum(normalizer, memory.abs()) + 1e-30
        normalizer = forget_gate * normalizer + input_gate
        memory = forget_gate * memory + input_gate * torch.tanh(candidate)
        return torch.sigmoid(output) * (memory / normalizer), memory, normalizer, stabilizer
'''

_DIAGONAL_GRU = '''
class DiagonalGRU(nn.Module):
    """A GRU with diagonal recurrent matrices (Danieli et al. 2025, arXiv:2510.21450).

    r, u = sigmoid(W x + w * h + b)
    c = tanh(W_c x + w_c * r * h + b_c)
    h <- (1 - u) * c + u * h
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 3 * hidden_size)
        self.diagonals = nn.Parameter(torch.zeros(3 * hidden_size))

    def step(self, x: Tensor, state: State) -> State:
        (hidden,) = state
        from_hidden = self.diagonals * torch.cat([hidden] * 3, dim=-1)
        reset_x, update_x, candidate_x = self.input(x).chunk(3, dim=-1)
        reset_h, update_h, candidate_h = from_hidden.chunk(3, dim=-1)
        reset = torch.sigmoid(reset_x + reset_h)
        update = torch.sigmoid(update_x + update_h)
        candidate = torch.tanh(candidate_x + reset * candidate_h)
        return (candidate + update * (hidden - candidate),)
'''

_DIAGONAL_LSTM = '''
class DiagonalLSTM(nn.Module):
    """An LSTM with diagonal recurrent matrices (Danieli et al. 2025, arXiv:2510.21450).

    i, f, o = sigmoid(W x + w * h + b)
    g = tanh(W_g x + w_g * h + b_g)
    c <- f * c + i * g
    h <- o * tanh(c)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, 4 * hidden_size)
        self.diagonals = nn.Parameter(torch.zeros(4 * hidden_size))

    def step(self, x: Tensor, state: State) -> State:
        hidden, memory = state
        sums = self.input(x) + self.diagonals * torch.cat([hidden] * 4, dim=-1)
        input_gate, forget_gate, candidate, output_gate = sums.chunk(4, dim=-1)
        memory = torch.sigmoid(forget_gate) * memory + torch.sigmoid(input_gate) * torch.tanh(
            candidate
        )
        return torch.sigmoid(output_gate) * torch.tanh(memory), memory
'''


class CellSource(NamedTuple):
    """A cell as source code.

    Attributes:
        name: Name of the class, made with (input_size, hidden_size); `step` maps an input, (batch,
            input_size), and a state to the next state, whose first tensor is the output.
        source: The class.
        num_states: Number of tensors in a state, each (batch, hidden_size).
    """

    name: str
    source: str
    num_states: int


def cell_source(section: CellSection) -> CellSource:
    """Return the source of the cell that a configuration describes."""
    if section.kind == "elman" and section.activation == "sigmoid":
        return CellSource("Elman", _SIGMOID_ELMAN, 1)
    if section.kind == "elman":
        return CellSource("Elman", _ELMAN.format(name=section.activation), 1)
    if section.kind == "gru":
        sources = {"after": _GRU, "before": _RESET_BEFORE_GRU, "none": _RESET_FREE_GRU}
        return CellSource("GRU", sources[section.reset], 1)
    if section.kind == "lstm":
        if section.is_plain:
            return CellSource("LSTM", _LSTM, 2)
        variant = LSTMVariant(section)
        return CellSource("LSTM", variant.source, variant.num_states)
    if section.kind == "nested_lstm":
        source = _NESTED_LSTM.format(depth=section.depth, inner=section.depth - 1)
        return CellSource("NestedLSTM", source, 1 + section.depth)
    if section.kind == "mogrifier_lstm":
        return CellSource("MogrifierLSTM", _mogrifier(section), 2)
    return {
        "bag": CellSource("Bag", _BAG, 1),
        "min_gru": CellSource("MinGRU", _MIN_GRU, 1),
        "min_lstm": CellSource("MinLSTM", _MIN_LSTM, 1),
        "rg_lru": CellSource("RGLRU", _RG_LRU, 1),
        "hgrn": CellSource("HGRN", _HGRN, 1),
        "slstm": CellSource("SLSTM", _SLSTM, 4),
        "diagonal_gru": CellSource("DiagonalGRU", _DIAGONAL_GRU, 1),
        "diagonal_lstm": CellSource("DiagonalLSTM", _DIAGONAL_LSTM, 2),
    }[section.kind]


def _mogrifier(section: CellSection) -> str:
    product = _FULL_ROUND if section.rank is None else _LOW_RANK_ROUND.format(rank=section.rank)
    return _MOGRIFIER_LSTM.replace("{rounds}", str(section.rounds)).replace("{round}", product)
