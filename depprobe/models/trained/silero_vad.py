r"""Whether somebody speaks: magnitudes of a short Fourier transform, four convolutions, an LSTM over blocks.

    e_t = convolutions(|F [end of x_{t-1}, x_t]|),    (h_t, c_t) = LSTM(e_t, h_{t-1}, c_{t-1})
    logit_t = w . relu(h_t) + b;   sigmoid(logit_t) is the probability of speech

Shapes: x (n, 512), blocks of 32 ms of sound at 16 kHz, of which a block sees the 64 samples before it;
e, h, c (n, 128). Where a magnitude is 0 its derivative is taken as 0.
Source: Silero Team 2024, Silero VAD.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from depprobe.models.checkpoint import load, read_weights
from depprobe.models.trained.sound import RATE, Floats, ReadsSound, at_rate

#: samples of a block, of those before it that it sees, and of its end mirrored behind it
_BLOCK, _BEFORE, _MIRRORED = 512, 64, 64
_WINDOW, _HOP = 256, 128
_LSTM = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Speech(nn.Module):
    """From blocks (b, n, 512): ``last_hidden_state`` h (b, n, 128), ``logits`` (b, n, 1) of speech."""

    input_size = _BLOCK
    transform: Tensor

    def __init__(self) -> None:
        super().__init__()
        bins = _WINDOW // 2 + 1
        self.register_buffer("transform", torch.zeros(2 * bins, 1, _WINDOW))
        self.conv1 = nn.Conv1d(bins, 128, 3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, 3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, 3, padding=1)
        self.lstm = nn.LSTM(128, 128, batch_first=True)
        self.output = nn.Linear(128, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        batch, n, size = x.shape
        before = pad(x[:, :-1, -_BEFORE:], (0, 0, 1, 0))
        blocks = torch.cat([before, x], -1).reshape(batch * n, 1, _BEFORE + size)
        parts = conv1d(pad(blocks, (0, _MIRRORED), "reflect"), self.transform, stride=_HOP)
        e = torch.linalg.vector_norm(parts.unflatten(1, (2, -1)), dim=1)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            e = torch.relu(conv(e))
        h, _ = self.lstm(e.reshape(batch, n, -1))
        return {"last_hidden_state": h, "logits": self.output(torch.relu(h))}


class SpeechInSound(ReadsSound):
    """A factory of the model."""

    def __init__(self, folder: Path) -> None:
        self.weights = read_weights(folder / "silero_vad_16k.safetensors")

    def __call__(self) -> nn.Module:
        own = {"transform": self.weights["stft_conv.weight"]}
        own |= {name: value for name, value in self.weights.items() if name.startswith("conv")}
        own |= {f"lstm.{end}_l0": self.weights[f"lstm_cell.{end}"] for end in _LSTM}
        own["output.weight"] = self.weights["final_conv.weight"][:, :, 0]
        own["output.bias"] = self.weights["final_conv.bias"]
        return load(Speech(), own, "silero_vad_16k.safetensors")

    def frames(self, sound: Floats, rate: float) -> Floats:
        """Blocks of 512 samples at 16 kHz."""
        wave = at_rate(sound, rate, RATE)
        return wave[: len(wave) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
