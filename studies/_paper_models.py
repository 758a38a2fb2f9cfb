"""The models of the paper task as a user has them: plain torch, (batch, n, 3) to (batch, n, 32)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: columns of the signal, and width of the models
CHANNELS, WIDTH = 3, 32


class LSTM(nn.Module):
    """Two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(CHANNELS, WIDTH, num_layers=2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


class Transformer(nn.Module):
    """Two causal encoder layers of torch, with four heads, that normalise first."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.embed = nn.Linear(CHANNELS, WIDTH)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.encoder(self.embed(x), mask=mask, is_causal=True)


class TCN(nn.Module):
    """Five causal convolutions of three taps, with dilations 1, 2, 4, 8, 16."""

    def __init__(self) -> None:
        super().__init__()
        widths = [CHANNELS, *[WIDTH] * 4]
        self.layers = nn.ModuleList(nn.Conv1d(w, WIDTH, 3, dilation=2**i) for i, w in enumerate(widths))

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        for conv in self.layers:
            y = torch.relu(conv(nn.functional.pad(y, (2 * conv.dilation[0], 0))))
        return y.transpose(1, 2)
