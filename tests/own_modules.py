"""Modules with forwards of their own, such as users write, for tests of the graph."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


class Tagger(nn.Module):
    """A recurrence and a read-out."""

    def __init__(self, d_in=5, d=6, d_out=3, kind=nn.LSTM, **options):
        super().__init__()
        self.rnn = kind(d_in, d, batch_first=True, **options)
        self.out = nn.Linear(d * (2 if options.get("bidirectional") else 1), d_out)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


class TwoLSTMs(nn.Module):
    """Two LSTMs, time first inside, with a residual sum."""

    def __init__(self, d=6):
        super().__init__()
        self.a, self.b = nn.LSTM(d, d), nn.LSTM(d, d)

    def forward(self, x):
        x = x.transpose(0, 1)
        x = x + self.a(x)[0]
        return (x + self.b(x)[0]).transpose(0, 1)


class InPlace(TwoLSTMs):
    """The same, with sums in place on what the LSTMs read and give."""

    def forward(self, x):
        x = x.transpose(0, 1).clone()
        y = self.a(x)[0]
        y.mul_(2)
        x += y
        z = self.b(x)[0]
        z += x
        return (z * 0.5).transpose(0, 1)

    def written_out(self, x):
        """The same without writing in place, which plain autograd refuses."""
        x = x.transpose(0, 1)
        x = x + 2 * self.a(x)[0]
        return (0.5 * (self.b(x)[0] + x)).transpose(0, 1)


class Handoff(nn.Module):
    """An encoder whose states start a decoder, and whose last states are read besides."""

    def __init__(self, d_in=5, d=6, d_out=4, kind=nn.LSTM, num_layers=2):
        super().__init__()
        self.encoder = kind(d_in, d, num_layers, batch_first=True)
        self.decoder = kind(d_in, d, num_layers, batch_first=True)
        self.out = nn.Linear(2 * d, d_out)

    def forward(self, x):
        y, last = self.decoder(x, self.encoder(x.flip(1))[1])
        last = last[1] if isinstance(last, tuple) else last
        return self.out(torch.cat([y, last[-1:].transpose(0, 1).expand_as(y)], -1))


class BiGRUAttention(nn.Module):
    """A bidirectional GRU, then attention pooling for each position."""

    def __init__(self, d_in=6, d=4):
        super().__init__()
        self.gru = nn.GRU(d_in, d, batch_first=True, bidirectional=True)
        self.pool = nn.MultiheadAttention(2 * d, 2, batch_first=True)

    def forward(self, x):
        h, last = self.gru(x)
        return self.pool(h, h, h)[0] + last.sum(0)[:, None].repeat(1, 1, 2)


class WeightsInUse(nn.Module):
    """Attention whose averaged weights are used too."""

    def __init__(self, d=6):
        super().__init__()
        self.mix = nn.MultiheadAttention(d, 2, batch_first=True)

    def forward(self, x):
        y, weights = self.mix(x, x, x)
        return y + weights @ x


class Encoder(nn.Module):
    """torch's encoder layers under a causal mask."""

    def __init__(self, d=6, depth=2, norm_first=True, causal=True):
        super().__init__()
        layer = nn.TransformerEncoderLayer(d, 2, 9, batch_first=True, norm_first=norm_first)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.causal = causal

    def forward(self, x):
        if not self.causal:
            return self.layers(x)
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.layers(x, mask=mask, is_causal=True)


class PreLN(nn.Module):
    """A pre-LN stack written out, with boolean masks."""

    def __init__(self, d=6, depth=3):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm": nn.LayerNorm(d),
                    "mix": nn.MultiheadAttention(d, 2, batch_first=True, dropout=0.1),
                    "mlp": nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 9), nn.GELU(), nn.Linear(9, d)),
                }
            )
            for _ in range(depth)
        )

    def forward(self, x):
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        for block in self.blocks:
            u = block["norm"](x)
            x = x + block["mix"](u, u, u, attn_mask=mask)[0]
            x = x + block["mlp"](x)
        return x


class Fused(nn.Module):
    """scaled_dot_product_attention called as a function, with grouped keys and a mask of its own."""

    def __init__(self, d=6, causal=True, groups=1, mask=None):
        super().__init__()
        self.q, self.kv = nn.Linear(d, 16), nn.Linear(d, 2 * 16 // groups)
        self.causal, self.groups, self.mask = causal, groups, mask

    def forward(self, x):
        q = self.q(x).unflatten(-1, (4, 4)).transpose(1, 2)
        k, v = (z.unflatten(-1, (-1, 4)).transpose(1, 2) for z in self.kv(x).chunk(2, -1))
        mask = None if self.mask is None else self.mask(x)
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=self.causal, enable_gqa=self.groups > 1
        )
        return x + y.transpose(1, 2).flatten(2)[..., :6]


class TCN(nn.Module):
    """Weight-normed dilated convolutions between transposes, with residual sums."""

    def __init__(self, d=6, depth=3):
        super().__init__()
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv1d(d, d, 3, dilation=2**i, padding=2 ** (i + 1))) for i in range(depth)
        )

    def forward(self, x):
        x = x.transpose(1, 2)
        for i, conv in enumerate(self.convs):
            x = x + conv(x)[..., : -(2 ** (i + 1))].relu()
        return x.transpose(1, 2)


class CellLoop(nn.Module):
    """A loop over a cell; ``feedback`` has it read its own output."""

    def __init__(self, kind=nn.LSTMCell, d_in=5, d=6, feedback=False):
        super().__init__()
        self.cell, self.feedback = kind(d_in, d), feedback

    def forward(self, x):
        h = x.new_zeros(len(x), self.cell.hidden_size)
        c, out = h, []
        for x_t in x.unbind(1):
            x_t = x_t + 0.1 * h[:, : x_t.shape[1]] if self.feedback else x_t
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(x_t, (h, c))
            else:
                h = self.cell(x_t, h)
            out.append(h)
        return torch.stack(out, 1)


class TwoCells(nn.Module):
    """Two stacked cells in one loop, the states of the lower one read besides."""

    def __init__(self, d_in=5, d=6):
        super().__init__()
        self.lower, self.upper = nn.GRUCell(d_in, d), nn.LSTMCell(d, d)

    def forward(self, x):
        h = x.new_zeros(len(x), 6)
        g, c, out = h, h, []
        for x_t in x.unbind(1):
            h = self.lower(x_t, h)
            g, c = self.upper(h, (g, c))
            out.append(torch.cat([g, c + h], -1))
        return torch.stack(out, 1)


class HandWritten(nn.Module):
    """A recurrence written out in matrices."""

    def __init__(self, d_in=5, d=6, scale=1.0):
        super().__init__()
        self.W, self.U = nn.Linear(d, d, bias=False), nn.Linear(d_in, d)
        self.scale = scale

    def forward(self, x):
        h, out = x.new_zeros(len(x), self.W.in_features), []
        for x_t in x.unbind(1):
            h = torch.tanh(self.scale * self.W(h) + self.U(x_t))
            out.append(h)
        return torch.stack(out, 1)


class LengthDecides(nn.Module):
    """Control flow that depends on the length, and every other position put out."""

    def __init__(self, d=6):
        super().__init__()
        self.a, self.b = nn.LSTM(d, d, batch_first=True), nn.GRU(d, d, batch_first=True)

    def forward(self, x):
        for step in range(x.shape[1] % 4):
            x = self.a(x)[0] if step == 1 else self.b(x)[0].flip(1)
        return x[:, ::2]


class Tied(nn.Module):
    """One LSTM called three times."""

    def __init__(self, d=6):
        super().__init__()
        self.rnn = nn.LSTM(d, d, batch_first=True)

    def forward(self, x):
        for _ in range(3):
            x = F.layer_norm(x + self.rnn(x)[0], x.shape[-1:])
        return x


class Eager(nn.Module):
    """Causal attention in plain operations: its zeros are products with weights that are 0."""

    def __init__(self, d=6, hidden="fill"):
        super().__init__()
        self.qkv, self.hidden = nn.Linear(d, 3 * d), hidden

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.mT / q.shape[-1] ** 0.5
        later = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
        if self.hidden == "fill":
            scores = scores.masked_fill(later, -torch.inf)
        else:
            scores = scores + torch.zeros_like(scores[0]).masked_fill(later, torch.finfo(x.dtype).min)
        return x + scores.softmax(-1) @ v
