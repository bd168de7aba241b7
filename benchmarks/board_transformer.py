"""Contestant of the board: a transformer of the size of nanoGPT's CPU recipe for tiny Shakespeare.

Four layers of four heads, width 128, blocks of 64 characters, batches of 12, AdamW from 1e-3 to
1e-4, beta2 0.99, no dropout. The recipe says 2,000 steps, here the time decides. Differences: the
warm-up is a fraction of the time, and the products are in bf16 where that is faster. In the score,
each character is predicted once, from 57 to 64 characters before it; nanoGPT reports the mean over
random blocks, whose first characters have hardly any context.

    python benchmarks/board_transformer.py train.txt held-out.txt 1 1
"""

import math
from collections.abc import Iterator

import torch
from board_peer import Task, autocast, compete, rate_factor, read_task
from measuring import run_main
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

LAYERS, HEADS, WIDTH, BLOCK, BATCH = 4, 4, 128, 64, 12
RATE, LAST_RATE, DECAY, CLIP, WARM_UP = 1e-3, 1e-4, 0.1, 1.0, 0.05
STRIDE = 8  # Characters that each block of the score predicts.
SCORED_BLOCKS = 64


class Layer(nn.Module):
    """Attention and a network of two products, each behind a normalization and added to x."""

    def __init__(self) -> None:
        """Create the weights."""
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.attention = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.joined = nn.Linear(WIDTH, WIDTH, bias=False)
        self.wide = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Advance the stream of all positions, (batch, time, width), by one layer."""
        batch, time, _ = x.shape
        parts = self.attention(self.norms[0](x)).view(batch, time, 3, HEADS, WIDTH // HEADS)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        read = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.joined(read.transpose(1, 2).reshape(batch, time, WIDTH))
        return x + self.narrow(gelu(self.wide(self.norms[1](x))))


class Network(nn.Module):
    """Embeddings of characters and positions, the layers, and a projection tied to the first."""

    def __init__(self, vocabulary_size: int) -> None:
        """Create the weights, with initial values as in nanoGPT."""
        super().__init__()
        self.characters = nn.Embedding(vocabulary_size, WIDTH)
        self.positions = nn.Embedding(BLOCK, WIDTH)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                is_added = name.endswith(("joined.weight", "narrow.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS if is_added else 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits, (batch, time, vocabulary)."""
        x = self.characters(ids) + self.positions.weight[: ids.shape[1]]
        return self.norm(self.layers(x)) @ self.characters.weight.t()


def main() -> None:
    """Train, score and print the result."""
    task = read_task(__doc__)
    settings = f"{LAYERS} layers, width {WIDTH}, batch {BATCH}, block {BLOCK}, AdamW {RATE:g}"
    compete(task, Network(task.vocabulary_size), Training, predict, rate, settings)


def rate(progress: float) -> float:
    """Return the learning rate when a fraction of the time has passed."""
    return RATE * rate_factor(progress, warm_up=WARM_UP, last=LAST_RATE / RATE)


class Training:
    """The training text, of which each step reads random blocks."""

    def __init__(self, network: Network, train: Tensor) -> None:
        """Make every block of the text available."""
        self.network = network
        matrices = [weight for weight in network.parameters() if weight.ndim == 2]
        vectors = [weight for weight in network.parameters() if weight.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}],
            lr=0.0,
            betas=(0.9, 0.99),
        )
        self.blocks = train.unfold(0, BLOCK + 1, 1)

    def step(self, precision: str) -> None:
        """Take one step on random blocks."""
        blocks = self.blocks[torch.randint(len(self.blocks), (BATCH,))]
        with autocast(precision):
            logits = self.network(blocks[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1).float(), blocks[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()


@torch.no_grad()
def predict(network: Network, task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and targets of the held-out text; its context begins in the training text."""
    count = len(task.held_out)
    padded = -count % STRIDE  # The last block ends with characters that are not scored.
    before = task.train[-(BLOCK - STRIDE + 1) :]
    ids = torch.cat([before, task.held_out, task.held_out.new_zeros(padded)])
    blocks = ids.unfold(0, BLOCK + 1, STRIDE)
    for some in blocks.split(SCORED_BLOCKS):
        logits = network(some[:, :-1])[:, -STRIDE:].flatten(0, 1)
        yield logits[:count], some[:, -STRIDE:].flatten()[:count]
        count -= len(logits)


if __name__ == "__main__":
    run_main(main)
