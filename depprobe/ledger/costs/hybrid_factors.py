r"""How many times less attention costs after a convolution, in FLOPs and in time, and the verdicts.

    attention             8 n d^2 + 4 n^2 d                                     FLOPs
    conv-attention        2 K m d^2 + 8 m d^2 + 4 m^2 d         m = ceil(n / s) positions left by stride s

With K = 3 and s = 1, as printed, the convolution comes on top. A stride divides the n^2 part by s^2: in FLOPs
the factor is 3 from n = 13 d on at s = 2, 2.25 d at s = 3, 0.77 d at s = 4, and its limit is s^2.
Source: Vaswani et al. 2017, table 1 (cost of attention and convolution).
"""

from __future__ import annotations

import xarray as xr

from depprobe.ledger.claim import Measured
from depprobe.ledger.verdicts import SHAKEN, timed, verdict

STATED = 3.0
HEADS = 8
ALONE, EXPLICIT, PRINTED = "attention", "attention:fused=false", "conv-attention"
STRIDES = (2, 3, 4)
LAYERS = (
    ALONE,
    EXPLICIT,
    PRINTED,
    *(f"conv-attention:stride={stride}" for stride in STRIDES),
    "conv-attention:attention=sliding-window",
)


def factor(n: int, d: int, stride: int, kernel: int = 3) -> float:
    """FLOPs of attention alone over those of a convolution and attention after it.

    Examples
    --------
    >>> factor(1000, 512, 1) < 1, round(factor(13 * 512, 512, 2), 9)
    (True, 3.0)
    """
    m = -(-n // stride)
    return (8 * n * d + 4 * n * n) / ((2 * kernel + 8) * m * d + 4 * m * m)


def faster(ds: xr.Dataset, layer: str, over: str = ALONE) -> xr.DataArray:
    """How many times less time than attention alone: (n, pass, quantile), quartiles over the rounds.

    ``pass`` is forward, forward+backward, classifier.
    """
    passes = [ds["pass_time"].sel(phase=phase, drop=True) for phase in ds["phase"].values]
    times = xr.concat([*passes, ds["classifier_time"]], "pass")
    ratio = times.sel(layer=over, drop=True) / times.sel(layer=layer, drop=True)
    names = [*map(str, ds["phase"].values), "classifier"]
    return ratio.quantile([0.25, 0.5, 0.75], "round").assign_coords({"pass": names})


def _measured(ratio: xr.DataArray) -> Measured:
    low, middle, high = (float(ratio.sel(quantile=q)) for q in (0.25, 0.5, 0.75))
    return Measured(middle, (high - low) / 2)


def _ends(ratio: xr.DataArray) -> list[xr.DataArray]:
    """Where the factor is reached by the lower quartile of the rounds, and by the upper, each shaken."""
    low, high = ratio.sel(quantile=0.25, drop=True), ratio.sel(quantile=0.75, drop=True)
    return [low / SHAKEN >= STATED, high * SHAKEN >= STATED]


def _judged(ends: list[xr.DataArray], numbers: dict[str, Measured], some: str, none: str) -> tuple:
    """The verdict over all cells; the note is ``some`` where the factor is reached in some, else ``none``."""
    said = [verdict(int(reached.sum()), reached.size) for reached in ends]
    return timed(said, numbers, some if ends[0].any() else none)


def _where(reached: xr.DataArray) -> str:
    rows = {str(row["pass"].item()): row for row in reached.transpose("pass", "n")}
    return ", ".join(
        f"{name} from n = {int(row['n'][row.values].min())}" for name, row in rows.items() if row.any()
    )


def of_printed(ds: xr.Dataset) -> tuple:
    """The hybrid as printed, which runs all of attention after its convolution."""
    ratio, ends = faster(ds, PRINTED), (int(ds["n"].min()), int(ds["n"].max()))
    saved = ds.sel(layer=ALONE) / ds.sel(layer=PRINTED)
    numbers = {
        f"time, {name}, n = {n}": _measured(ratio.sel({"pass": name, "n": n}))
        for name in ratio["pass"].values
        for n in ends
    }
    numbers["FLOPs, most"] = Measured(float(saved["flops"].max()))
    numbers["memory, most"] = Measured(float(saved["peak_bytes"].max()))
    reached = _ends(ratio)
    slower = ": it takes more time in every pass" * bool((ratio.sel(quantile=0.5) < 1).all())
    none = f"all of attention remains and the convolution comes on top{slower}"
    return _judged(reached, numbers, f"in {_where(reached[0])}", none)


def of_strides(ds: xr.Dataset) -> tuple:
    """A stride that shortens what attention sees."""
    longest, d, phase = int(ds["n"].max()), int(ds.attrs["d"]), ds["phase"].values[-1]
    ratios, numbers = {}, {}
    for stride in STRIDES:
        name, where = f"conv-attention:stride={stride}", f"stride {stride}, n = {longest}"
        ratios[stride] = faster(ds, name)
        numbers[f"{where}, FLOPs"] = Measured(factor(longest, d, stride))
        for one in ratios[stride]["pass"].values:
            numbers[f"{where}, time, {one}"] = _measured(ratios[stride].sel({"n": longest, "pass": one}))
        memory = ds["peak_bytes"].sel(n=longest, phase=phase)
        saved = float(memory.sel(layer=ALONE) / memory.sel(layer=name))
        numbers[f"{where}, memory, {phase}"] = Measured(saved)
    # a stride reaches the factor at a length where it does in every pass
    low, high = _ends(xr.concat(ratios.values(), "stride").assign_coords(stride=list(ratios)))
    reached = [end.all("pass") for end in (low, high)]
    said = ", ".join(
        f"stride {stride} from n = {int(row['n'][row.values].min())}"
        for stride, row in zip(ratios, reached[0].transpose("stride", "n"), strict=True)
        if row.any()
    )
    some = f"at d = {d}: {said}; FLOPs ask for n = 13 d, 2.25 d, 0.77 d at stride 2, 3, 4"
    return _judged(reached, numbers, some, "no stride and length measured reaches 3")


def of_kernels(ds: xr.Dataset) -> tuple:
    """The hybrid with fused attention against attention that writes its weights out."""
    longest, ratio = int(ds["n"].max()), faster(ds, PRINTED, EXPLICIT)
    numbers = {
        f"time, {name}, n = {longest}": _measured(ratio.sel({"pass": name, "n": longest}))
        for name in ratio["pass"].values
    }
    reached = _ends(ratio)
    some = f"{_where(reached[0])}; that is the kernel's factor, not the convolution's"
    return _judged(reached, numbers, some, "not at any length or pass measured")
