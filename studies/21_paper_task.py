"""From a checkpoint to the figure and the table of a paper: from how far back do three models take gradients?

The task of a user with a deadline: a trained LSTM of two layers, read from its checkpoint, beside a causal
Transformer encoder of torch and a temporal convolutional network (TCN) at five draws of their weights, on a
signal (CSV) and on English text; n = 400, bands; one figure of two panels and one LaTeX table. What a user
writes is ``studies/_paper_task.py``, some 25 lines, and its figure and table are shown as they come out. The
checkpoint (trained here to predict the signal), the signal and the text (docstrings of Python's standard
library) are made by the study, which downloads nothing.

Answer: the model decides, the input hardly. Gradients of the trained LSTM fall by a tenth a step (-0.11
nats on both inputs) to 1e-19 at lag 399, and 95 % of the squared norms come from the last 35 positions of
the signal, 15 of the text. In the Transformer the own position holds more than 95 %, by its residual path;
all others have norms 2.5 decades below that, whatever the distance. The TCN sees 62 positions back, each
about as much, and nothing beyond.

Numbers: the full version, at the last of 400 positions; medians over five windows and five draws of weights.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import tempfile
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from _paper_models import CHANNELS, LSTM, WIDTH
from _paper_task import FILES, measure, publish
from _study import main, report
from matplotlib.figure import Figure

import depprobe
from depprobe.runs.labelling import provenance

#: rows of the signal, steps of training, and modules whose docstrings are the text
LENGTH, STEPS = 4000, 60
MODULES = ("argparse", "calendar", "difflib", "doctest", "heapq", "pickletools", "random", "statistics")
#: positions that the TCN sees: 1 + 2 (1 + 2 + 4 + 8 + 16)
SEEN = 63


def compute(quick: bool) -> xr.Dataset:
    """Norms over (input, layer, seed, sample, target, source), with the LaTeX table as an attribute."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        report(0, 2, "training the LSTM")
        write_materials()
        report(1, 2, "measuring")
        results = measure(400, 2, 2) if quick else measure()
        report(2, 2, "")
    _, table = publish(results)
    ds = xr.concat(results.values(), dim="input", combine_attrs="override").assign_coords(input=list(results))
    ds["input"].attrs = {"long_name": "what the models read", "units": "1"}
    ds.attrs |= {
        "title": "Temporal Jacobian of three models on two inputs",
        "table": table,
        "provenance": provenance("studies/21_paper_task.py" + " --quick" * quick),
    }
    return ds


def write_materials() -> None:
    """The checkpoint, the signal and the text, in the folder where the process is; the same every time."""
    signal = oscillations()
    np.savetxt(FILES["signal"], signal, delimiter=",", header="a,b,c", comments="", fmt="%.5f")
    text = "\n\n".join(inspect.getdoc(importlib.import_module(name)) or "" for name in MODULES)
    Path(FILES["English text"]).write_text(text, encoding="utf-8")
    torch.save(trained(torch.tensor(signal, dtype=torch.float32)).state_dict(), "lstm.pt")


def oscillations() -> np.ndarray:
    """Three noisy oscillations of periods 20, 50 and 125, (LENGTH, CHANNELS)."""
    steps, noise = np.arange(LENGTH)[:, None], np.random.default_rng(0).normal(size=(LENGTH, CHANNELS))
    return np.sin(2 * np.pi * steps / [20, 50, 125]) + 0.3 * noise


def trained(signal: torch.Tensor) -> LSTM:
    """The LSTM after some steps towards predicting the signal eight positions ahead."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, head = LSTM(), torch.nn.Linear(WIDTH, CHANNELS)
        chosen = torch.Generator().manual_seed(0)
        optimiser = torch.optim.Adam([*module.parameters(), *head.parameters()], lr=0.01)
        for _ in range(STEPS):
            starts = torch.randint(LENGTH - 108, (16,), generator=chosen).tolist()
            x, y = (torch.stack([signal[s + ahead : s + ahead + 100] for s in starts]) for ahead in (0, 8))
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(head(module(x)), y).backward()
            optimiser.step()
    return module


def parts(ds: xr.Dataset) -> dict[str, xr.Dataset]:
    """What was measured of each input."""
    return {str(name): ds.sel(input=name, drop=True) for name in ds["input"].values}


def checks(ds: xr.Dataset) -> list[str]:
    """What is known whatever the weights: how far each model reaches, and that only two of them draw any."""
    faults = []
    for name, one in parts(ds).items():
        reach = depprobe.distances(one)["receptive_field"]
        known = {"LSTM, trained": 399, "Transformer": 399, "TCN": SEEN - 1}
        faults += [
            f"the receptive field of {layer} on {name} is {float(reach.sel(layer=layer))}, not {expected}"
            for layer, expected in known.items()
            if float(reach.sel(layer=layer)) != expected
        ]
        drawn = one["log_norm"].notnull().any(["sample", "target", "source"]).sum("seed")
        if int(drawn.sel(layer="LSTM, trained")) != 1 or int(drawn.sel(layer="TCN")) != one.sizes["seed"]:
            faults.append(f"draws of weights on {name}: {drawn.values.tolist()}")
    return faults


def summary(ds: xr.Dataset) -> dict[str, float]:
    """Mean distance of each model on the signal; the text differs between versions of Python."""
    found = depprobe.distances(parts(ds)["signal"])["mean_distance"]
    return {f"{layer}: mean distance": float(found.sel(layer=layer)) for layer in found["layer"].values}


def plot(ds: xr.Dataset) -> Figure:
    """What the user's script draws."""
    return publish(parts(ds))[0].figure


if __name__ == "__main__":
    main(compute, plot, summary, __file__, checks=checks, tolerance=0.05)
