"""A trained LSTM beside a Transformer and a TCN, on my signal and on English text: one figure, one table."""

from __future__ import annotations

import torch
import xarray as xr
from _paper_models import LSTM, TCN, Transformer

import depprobe

FILES = {"signal": "signal.csv", "English text": "english.txt"}


def measure(n: int = 400, seeds: int = 5, samples: int = 5) -> dict[str, xr.Dataset]:
    """Norms of dh_t/dx_k for each input, of the trained LSTM and of models as drawn."""
    lstm = LSTM()
    lstm.load_state_dict(torch.load("lstm.pt", weights_only=True))
    results = {}
    for name, file in FILES.items():
        x = depprobe.read_input(file).windows(n, 3, samples)
        trained = depprobe.jacobian({"LSTM, trained": lstm}, x)
        drawn = depprobe.jacobian({"Transformer": Transformer, "TCN": TCN}, x, seeds=seeds)
        results[name] = depprobe.combine([trained, drawn])
    return results


def publish(results: dict[str, xr.Dataset]) -> tuple[depprobe.figures.Panels, str]:
    """The figure of two panels, with its caption, and the LaTeX table."""
    drawn = depprobe.figures.panels(results, share_floor=True)
    rows = ["decay rate", "mean distance", "95 % range", "receptive field"]
    return drawn, depprobe.table(results, "latex", rows=rows)


if __name__ == "__main__":
    with depprobe.figures.venue("icml"):
        figure, table = publish(measure())
        depprobe.figures.save(figure, "compare.pdf")
    print(figure.caption, table, sep="\n\n")
