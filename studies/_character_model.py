r"""A causal language model of characters, small enough to be trained inside a study.

    h^0_t = E[c_t],    h^l = u^l + W_2 gelu(W_1 norm(u^l)),    u^l = h^(l-1) + attention(norm(h^(l-1)))

``stream`` holds the embedding and the blocks, so that ``stream.*`` names h^0 to h^L. Positions are rotary (Su
et al. 2021). Weights are normal with standard deviation 0.5 / sqrt(d), about what GPT-2 has at its width.
Text: Python's own reference documentation, ``pydoc_data.topics``; the last tenth is held out of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE, WIDTH, HEADS = 128, 64, 4
IDS = np.frombuffer("\n".join(topics[name] for name in sorted(topics)).encode("ascii", "replace"), np.uint8)
SPLIT = len(IDS) * 9 // 10


def rotated(x: Tensor) -> Tensor:
    """Queries or keys (..., n, width) with pairs of entries turned by angles that grow with the position."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 500.0 ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()], -1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def heads(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, heads, n, width of a head)."""
        q, k, v = self.qkv(self.norm_1(h)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return rotated(q), rotated(k), v

    def attention(self, h: Tensor) -> Tensor:
        """Weights (batch, n, n), averaged over heads."""
        q, k, _ = self.heads(h)
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        return scores.masked_fill(future, -math.inf).softmax(-1).mean(1)

    def read(self, h: Tensor) -> Tensor:
        """What attention adds to the stream."""
        read = functional.scaled_dot_product_attention(*self.heads(h), is_causal=True)
        return self.out(read.transpose(1, 2).flatten(2))

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.read(h)
        return h + self.down(functional.gelu(self.up(self.norm_2(h))))


class CharacterModel(nn.Module):
    """Ids (batch, n) to logits (batch, n, SIZE)."""

    def __init__(self, blocks: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stream = nn.ModuleList([nn.Embedding(SIZE, WIDTH), *(Block() for _ in range(blocks))])
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, SIZE, bias=False)
            for name, weight in self.named_parameters():
                if weight.dim() > 1:
                    nn.init.normal_(weight, std=0.5 / math.sqrt(WIDTH))
                elif name.endswith("bias"):
                    nn.init.zeros_(weight)

    def states(self, ids: Tensor) -> list[Tensor]:
        """The residual stream h^0 to h^L, each (batch, n, WIDTH)."""
        found = [self.stream[0](ids)]
        for block in self.stream[1:]:
            found.append(block(found[-1]))
        return found

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.states(ids)[-1]))


def windows(n: int, count: int) -> Tensor:
    """Ids (count, n) spread evenly over the text that was held out."""
    starts = np.linspace(SPLIT, len(IDS) - n, count, dtype=int)
    return torch.tensor(np.stack([IDS[start : start + n] for start in starts]), dtype=torch.long)


def loss(net: nn.Module, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next character, in nats."""
    return functional.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def train(net: CharacterModel, n: int, steps: int, report: Callable[[int], None]) -> CharacterModel:
    """Adam on 8 windows a step, with a rise and a linear fall of the rate; the same every time."""
    rng = np.random.default_rng(0)
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, betas=(0.9, 0.98))
    rate = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min((i + 1) / 30, 1 - i / (steps + 1)))
    for step in range(steps):
        report(step)
        starts = rng.integers(0, SPLIT - n - 1, 8)
        ids = torch.tensor(np.stack([IDS[start : start + n + 1] for start in starts]), dtype=torch.long)
        optimiser.zero_grad()
        loss(net, ids).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        rate.step()
    return net.eval()
