"""Contestant of the board: a plain loop over `torch.nn.LSTM`, as a competent user writes it.

One LSTM layer, AdamW, gradient clipping, a warm-up and a cosine within the time, dropout, and the
state carried from window to window. The products are in bf16 where that is faster. Rate, size,
batch and dropout are the best of twelve trials on tiny Shakespeare, except that no dropout was as
good within 0.002 nats (docs/lab/board-2026-11-26.md).

    python benchmarks/board_lstm.py train.txt held-out.txt 1 1
"""

from collections.abc import Iterator

import torch
from board_peer import Task, autocast, compete, rate_factor, read_task
from measuring import run_main
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

EMBEDDING, HIDDEN, BATCH, WINDOW = 64, 384, 32, 64
RATE, DECAY, CLIP, DROPOUT = 1.6e-2, 0.1, 1.0, 0.1
SCORED_WINDOW = 256
State = tuple[Tensor, Tensor] | None


class Network(nn.Module):
    """Embedding, LSTM, dropout and projection."""

    def __init__(self, vocabulary_size: int) -> None:
        """Create the layers."""
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, EMBEDDING)
        self.lstm = nn.LSTM(EMBEDDING, HIDDEN)
        self.dropout = nn.Dropout(DROPOUT)
        self.projection = nn.Linear(HIDDEN, vocabulary_size)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """Return logits, (time, batch, vocabulary), and the state without its gradient."""
        hidden, (last, cell) = self.lstm(self.embedding(ids), state)
        return self.projection(self.dropout(hidden)), (last.detach(), cell.detach())


def main() -> None:
    """Train, score and print the result."""
    task = read_task(__doc__)
    settings = f"LSTM {HIDDEN}, batch {BATCH}, window {WINDOW}, AdamW {RATE:g}, dropout {DROPOUT:g}"
    compete(task, Network(task.vocabulary_size), Training, predict, rate, settings)


def rate(progress: float) -> float:
    """Return the learning rate when a fraction of the time has passed."""
    return RATE * rate_factor(progress)


class Training:
    """The training text in parallel streams, and the place in it."""

    def __init__(self, network: Network, train: Tensor) -> None:
        """Divide the text into streams."""
        self.network = network
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=0.0, betas=(0.9, 0.99), weight_decay=DECAY
        )
        length = len(train) // BATCH
        self.streams = train[: length * BATCH].view(BATCH, length).t().contiguous()
        self.at, self.state = 0, None

    def step(self, precision: str) -> None:
        """Take one step on the next window of every stream."""
        if self.at + 1 >= len(self.streams):
            self.at, self.state = 0, None
        window = self.streams[self.at : self.at + WINDOW + 1]
        self.at += WINDOW
        with autocast(precision):
            logits, self.state = self.network(window[:-1], self.state)
        loss = cross_entropy(logits.flatten(0, 1).float(), window[1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()


@torch.no_grad()
def predict(network: Network, task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and targets of the held-out text, from the last training character on."""
    ids = torch.cat([task.train[-1:], task.held_out])[:, None]
    state = None
    for at in range(0, len(ids) - 1, SCORED_WINDOW):
        window = ids[at : at + SCORED_WINDOW + 1]
        logits, state = network(window[:-1], state)
        yield logits, window[1:]


if __name__ == "__main__":
    run_main(main)
