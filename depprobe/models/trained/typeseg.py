r"""In which language bytes are written: six Mamba blocks that read in both directions.

    u, g = W_in norm(x),   u_t <- silu(conv(u)_t),   (r, B, C) = W_x u,   Delta = softplus(W_r r) + 1e-4
    s_t = exp(Delta_t A) s_{t-1} + Delta_t B_t u_t,   y_t = C_t . s_t + D u_t,   A = -exp(A_log)
    x <- x + W_out ((y + y read backwards) silu(g))

Shapes: x, u, y (n, 256), s (n, 256, 16), B, C (n, 16), r (n, 16); logits (n, 35), one a language.
Source: Gu and Dao 2023, arXiv 2312.00752 (Mamba); weights of typeseg.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu, softplus

from depprobe.models.checkpoint import ReadsText, load, read_weights

#: names of the languages, in the order of the logits
LANGUAGES = (
    *("php", "csharp", "javascript_typescript", "go", "sql", "rust", "yaml", "ruby", "python", "java"),
    *("c_family", "json", "css", "html", "text", "csv", "shell", "powershell", "visual_basic", "dockerfile"),
    *("dart", "gettext_catalog", "kotlin", "markdown", "restructuredtext", "scala", "swift", "tex", "xml"),
    *("svg", "encoding_hex", "encoding_base64", "encoding_base32", "encoding_base58", "encoding_base85"),
)
#: id of every byte that is neither printable ASCII nor a blank or the end of a line
_OTHER = 128
_STATE, _RANK, _TAPS = 16, 16, 4


class Block(nn.Module):
    """x (b, n, d) -> (b, n, d)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d, eps=1e-6)
        self.inward, self.outward = nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.conv = nn.Conv1d(d, d, _TAPS, groups=d)
        self.select, self.delta = nn.Linear(d, _RANK + 2 * _STATE), nn.Linear(_RANK, d)
        self.A_log, self.D = nn.Parameter(torch.zeros(d, _STATE)), nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.inward(self.norm(x)).chunk(2, -1)
        u = silu(self.conv(pad(u.transpose(1, 2), ((_TAPS - 1) // 2, _TAPS // 2)))).transpose(1, 2)
        rank, B, C = self.select(u).split([_RANK, _STATE, _STATE], -1)
        delta = (softplus(self.delta(rank)) + 1e-4)[..., None]
        factor = torch.exp(delta * -torch.exp(self.A_log))
        added = delta * B[:, :, None] * u[..., None]
        steps = list(zip(factor.unbind(1), added.unbind(1), strict=True))
        both = torch.stack(scan(steps), 1) + torch.stack(scan(steps[::-1])[::-1], 1)
        y = (both * C[:, :, None]).sum(-1) + 2 * u * self.D
        return x + self.outward(y * silu(gate))


def scan(steps: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """s_t = factor_t s_{t-1} + added_t from s = 0, for pairs (factor, added)."""
    states = [steps[0][1]]
    for factor, added in steps[1:]:
        states.append(torch.addcmul(added, factor, states[-1]))
    return states


class Languages(nn.Module):
    """From ids (b, n): ``last_hidden_state`` (b, n, 256), ``logits`` (b, n, 35) of the languages."""

    def __init__(self, d: int = 256, depth: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(130, d)
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        self.norm = nn.LayerNorm(d, eps=1e-6)
        self.output = nn.Linear(d, len(LANGUAGES))

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        h = self.norm(x)
        return {"last_hidden_state": h, "logits": self.output(h)}


#: part of a block in the file -> in the module
_PARTS = {"LayerNorm_0": "norm", "Dense_0": "inward", "Conv_0": "conv", "Dense_1": "select"}
_PARTS |= {"Dense_2": "delta", "Dense_3": "outward"}
_OUTER = {"Embed_0": "embedding", "LayerNorm_0": "norm", "Dense_0": "output"}


def _named(name: str) -> str:
    """The module's name of a weight in the file."""
    *parts, kind = name.split("__")
    kind = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(kind, kind)
    if parts[0] in _OUTER:
        return f"{_OUTER[parts[0]]}.{kind}"
    block = parts[0].rpartition("_")[2]
    return ".".join(["blocks", block, *(_PARTS[part] for part in parts[1:]), kind])


class LanguagesOfText(ReadsText):
    """A factory of the model, which reads bytes."""

    def __init__(self, folder: Path) -> None:
        read = read_weights(folder / "mamba_al.npz")
        # kernels are (taps, 1, d) or (d_in, d_out); axes in the opposite order are torch's
        turned = {name: value.permute(*range(value.ndim)[::-1]) for name, value in read.items()}
        self.weights = {
            _named(name): turned[name] if name.endswith("kernel") else value for name, value in read.items()
        }

    def __call__(self) -> nn.Module:
        return load(Languages(), self.weights, "mamba_al.npz")

    def ids(self, text: str) -> list[int]:
        """Ids of the bytes."""
        return [i if 32 <= i < 127 or i in b"\t\n\r" else _OTHER for i in text.encode()]

    def words(self, ids: Sequence[int]) -> list[str]:
        return [chr(i) if i < _OTHER else "\N{CURRENCY SIGN}" for i in ids]
