r"""Whose voice it is: three stacked LSTMs over mel powers, and a direction for each voice.

    h_t = LSTM(x_t, h_{t-1}),    y_t = relu(W h_t + b) / |relu(W h_t + b)|

y_t is the voice of all that was heard up to t. Shapes: x (n, 40), 100 frames a second; h, y (n, 256).
Source: Wan et al. 2018, arXiv 1710.10467 (generalized end-to-end loss); weights of Resemblyzer.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from depprobe.models.checkpoint import load, read_weights
from depprobe.models.trained.sound import RATE, Floats, ReadsSound, at_rate, mel_powers

#: root mean square that a fainter sound is raised to: -30 dB of full scale
_LOUDNESS = 10 ** (-30 / 20)


class Voice(nn.Module):
    """From mel powers (b, n, 40): voices y (b, n, 256)."""

    input_size = 40

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(self.input_size, 256, num_layers=3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, x: Tensor) -> Tensor:
        return normalize(torch.relu(self.linear(self.lstm(x)[0])), dim=-1)


class VoiceInSound(ReadsSound):
    """A factory of the model."""

    def __init__(self, folder: Path) -> None:
        self.weights = read_weights(folder / "pretrained.pt")

    def __call__(self) -> nn.Module:
        own = {name: value for name, value in self.weights.items() if not name.startswith("similarity")}
        return load(Voice(), own, "pretrained.pt")

    def frames(self, sound: Floats, rate: float) -> Floats:
        """Mel powers at 16 kHz, a faint sound made louder first."""
        wave = at_rate(sound, rate, RATE)
        loudness = float((wave**2).mean() ** 0.5)
        return mel_powers(wave * max(1.0, _LOUDNESS / loudness) if loudness else wave)
