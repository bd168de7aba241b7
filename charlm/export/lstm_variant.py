"""The LSTM with options of Gers and Schmidhuber 2000 and Greff et al. 2015, as source code.

The options have too many combinations for a text of each, so the lines are put together.
"""

from collections.abc import Iterator
from textwrap import indent

from charlm.config.cell import Cell as CellSection


class LSTMVariant:
    """The class of an LSTM with options, as in `charlm.model.cells.lstm.LSTMVariant`.

    Attributes:
        num_states: Number of tensors in a state: with full gate recurrence, the gates too.
    """

    def __init__(self, section: CellSection) -> None:
        """Find the gates that have weights, in the order of their blocks."""
        missing = {*section.without, *(["forget_gate"] if section.coupled else [])}
        gates = ("input", "forget", "output")
        self._section = section
        self._names = [name for name in gates if f"{name}_gate" not in missing]
        self.num_states = 2 + (len(self._names) if section.full_gate_recurrence else 0)

    @property
    def source(self) -> str:
        """The class."""
        lines = [
            "\nclass LSTM(nn.Module):",
            indent("\n".join(self._docstring()), "    "),
            "",
            "    def __init__(self, input_size: int, hidden_size: int) -> None:",
            indent("\n".join(self._constructor()), "        "),
            "",
            "    def step(self, x: Tensor, state: State) -> State:",
            indent("\n".join(self._step()), "        "),
            "",
        ]
        return "\n".join(lines)

    def _docstring(self) -> Iterator[str]:
        """Yield the equations."""
        section = self._section
        yield '"""An LSTM with options of Gers and Schmidhuber 2000 and Greff et al. 2015.'
        yield ""
        for name in self._names:
            peephole = f" + P_{name[0]} c" if name in section.peepholes else ""
            gates = " + R [i, f, o of the token before]" if section.full_gate_recurrence else ""
            new = ", with the new c" if name == "output" and peephole else ""
            yield f"{name[0]} = sigmoid(W [h, x]{peephole}{gates} + b){new}"
        if section.coupled:
            yield "f = 1 - i"
        if section.capped:
            yield "i <- min(i, 1 - f)"
        forget, kept, output = self._factors("f", "i", "o")
        yield f"c <- {forget}c + {kept}{self._activated('input', 'W_g [h, x] + b_g')}"
        yield f"h <- {output}{self._activated('output', 'c').replace('torch.', '')}"
        yield '"""'

    def _constructor(self) -> Iterator[str]:
        """Yield the lines that create the weights."""
        section, count = self._section, len(self._names)
        blocks = f"{count + 1} * " if count else ""
        yield "super().__init__()"
        yield f"self.input = nn.Linear(input_size, {blocks}hidden_size)"
        yield f"self.recurrent = nn.Linear(hidden_size, {blocks}hidden_size, bias=False)"
        for name in self._names:
            if name in section.peepholes:
                yield f"self.peephole_{name} = {self._peephole()}"
        if section.full_gate_recurrence:
            units = f"{count} * hidden_size" if count > 1 else "hidden_size"
            yield f"self.gate_recurrence = nn.Linear({units}, {units}, bias=False)"

    def _step(self) -> Iterator[str]:
        """Yield the lines of the step."""
        section = self._section
        sums = [f"{name}_gate" for name in self._names]
        yield from self._sums(sums)
        for name in ("input", "forget"):
            if name in self._names:
                yield self._gate(name)
        if section.coupled:
            yield "forget_gate = 1 - input_gate"
        if section.capped:
            yield "input_gate = torch.minimum(input_gate, 1 - forget_gate)"
        forget, kept, output = self._factors("forget_gate", "input_gate", "output_gate")
        yield f"memory = {forget}memory + {kept}{self._activated('input', 'candidate')}"
        if "output" in self._names:
            yield self._gate("output")
        yield f"hidden = {output}{self._activated('output', 'memory')}"
        after = sums if section.full_gate_recurrence else []
        yield f"return {', '.join(['hidden', 'memory', *after])}"

    def _sums(self, gates: list[str]) -> Iterator[str]:
        """Yield the lines that compute the sums in the gates and in the candidate."""
        if self._section.full_gate_recurrence:
            yield "hidden, memory, *gates_before = state"
        else:
            yield "hidden, memory = state"
        yield "sums = self.input(x) + self.recurrent(hidden)"
        if self._section.full_gate_recurrence:
            yield "gates = self.gate_recurrence(torch.cat(gates_before, dim=-1))"
            yield "sums = sums + F.pad(gates, (0, hidden.shape[-1]))  # Not of the candidate."
        if gates:
            yield f"{', '.join([*gates, 'candidate'])} = sums.chunk({len(gates) + 1}, dim=-1)"
        else:
            yield "candidate = sums"

    def _factors(self, forget: str, input_gate: str, output: str) -> tuple[str, str, str]:
        """Return the factors of memory, candidate and output; empty for gates that are left out."""
        has_forget = "forget" in self._names or self._section.coupled
        return (
            f"{forget} * " if has_forget else "",
            f"{input_gate} * " if "input" in self._names else "",
            f"{output} * " if "output" in self._names else "",
        )

    def _peephole(self) -> str:
        if self._section.peephole_weights == "full":
            return "nn.Linear(hidden_size, hidden_size, bias=False)"
        return "nn.Parameter(torch.zeros(hidden_size))"

    def _gate(self, name: str) -> str:
        """Return the line that computes a gate from its sum."""
        is_full = self._section.peephole_weights == "full"
        product = f"self.peephole_{name}(memory)" if is_full else f"self.peephole_{name} * memory"
        peephole = f" + {product}" if name in self._section.peepholes else ""
        return f"{name}_gate = torch.sigmoid({name}_gate{peephole})"

    def _activated(self, place: str, value: str) -> str:
        """Return tanh of a value, or the value where the activation is left out."""
        is_left_out = f"{place}_activation" in self._section.without
        return value if is_left_out else f"torch.tanh({value})"
