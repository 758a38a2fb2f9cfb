r"""How many times less attention costs after a convolution, in FLOPs and in time, and the verdicts.

    attention             8 n d^2 + 4 n^2 d                                     FLOPs
    conv-attention        2 K m d^2 + 8 m d^2 + 4 m^2 d         m = ceil(n / s) positions left by stride s

With K = 3 and s = 1, as printed, the convolution comes on top. A stride divides the n^2 part by s^2: in FLOPs
the factor is 3 from n = 13 d on at s = 2, 2.25 d at s = 3, 0.77 d at s = 4, and its limit is s^2.
Source: Vaswani et al. 2017, table 1 (cost of attention and convolution).
"""

from __future__ import annotations

import xarray as xr

from depprobe.ledger.claim import QUALIFIED, Finding, Measured, verdict

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
    """The median, and half the distance of the quartiles for its error."""
    low, middle, high = (float(ratio.sel(quantile=q)) for q in (0.25, 0.5, 0.75))
    return Measured(middle, (high - low) / 2)


def _reached(ratio: xr.DataArray) -> tuple[str, str]:
    """The verdict over lengths and passes, and where the factor is reached."""
    enough = ratio.sel(quantile=0.25) >= STATED
    cells = [
        f"{name} from n = {int(row['n'][row.values].min())}"
        for name, row in ((str(row["pass"].item()), row) for row in enough.transpose("pass", "n"))
        if row.any()
    ]
    return verdict(int(enough.sum()), enough.size), ", ".join(cells)


def of_printed(ds: xr.Dataset) -> Finding:
    """The hybrid as printed, which runs all of attention after its convolution."""
    ratio, ends = faster(ds, PRINTED), (int(ds["n"].min()), int(ds["n"].max()))
    found, where = _reached(ratio)
    slower = bool((ratio.sel(quantile=0.5) < 1).all())
    alone, hybrid = (ds.sel(layer=name) for name in (ALONE, PRINTED))
    return Finding(
        "as printed (stride 1), 3 times faster than attention alone",
        found,
        {
            f"time, {name}, n = {n}": _measured(ratio.sel({"pass": name, "n": n}))
            for name in ratio["pass"].values
            for n in ends
        }
        | {
            "FLOPs, most": Measured(float((alone["flops"] / hybrid["flops"]).max())),
            "memory, most": Measured(float((alone["peak_bytes"] / hybrid["peak_bytes"]).max())),
        },
        f"in {where}"
        if found == QUALIFIED
        else "all of attention remains and the convolution comes on top: it takes more time in every pass"
        if slower
        else "all of attention remains and the convolution comes on top",
    )


def of_strides(ds: xr.Dataset) -> Finding:
    """A stride that shortens what attention sees."""
    longest, d = int(ds["n"].max()), int(ds.attrs["d"])
    reached: list[bool] = []
    shortest: dict[int, int] = {}
    numbers = {}
    for stride in STRIDES:
        name = f"conv-attention:stride={stride}"
        ratio = faster(ds, name)
        for n in map(int, ds["n"].values):
            reached.append(bool((ratio.sel(n=n, quantile=0.25) >= STATED).all()))
            if reached[-1]:
                shortest.setdefault(stride, n)
        where = f"stride {stride}, n = {longest}"
        numbers[f"{where}, FLOPs"] = Measured(factor(longest, d, stride))
        for one in ratio["pass"].values:
            numbers[f"{where}, time, {one}"] = _measured(ratio.sel({"n": longest, "pass": one}))
        memory = ds["peak_bytes"].sel(n=longest, phase=ds["phase"].values[-1])
        numbers[f"{where}, memory, {ds['phase'].values[-1]}"] = Measured(
            float(memory.sel(layer=ALONE) / memory.sel(layer=name))
        )
    found = verdict(sum(reached), len(reached))
    said = ", ".join(f"stride {stride} from n = {n}" for stride, n in shortest.items())
    return Finding(
        "a convolution with a stride, which shortens the sequence, makes it 3 times faster",
        found,
        numbers,
        f"at d = {d}: {said}; FLOPs ask for n = 13 d, 2.25 d, 0.77 d at stride 2, 3, 4"
        if found == QUALIFIED
        else "no stride and length measured reaches 3",
    )


def of_kernels(ds: xr.Dataset) -> Finding:
    """The hybrid with fused attention against attention that writes its weights out."""
    longest = int(ds["n"].max())
    ratio = faster(ds, PRINTED, EXPLICIT)
    found, where = _reached(ratio)
    return Finding(
        "with a fused kernel it is 3 times faster than attention that writes its weights out",
        found,
        {
            f"time, {name}, n = {longest}": _measured(ratio.sel({"pass": name, "n": longest}))
            for name in ratio["pass"].values
        },
        f"{where}; that is the kernel's factor, not the convolution's"
        if found == QUALIFIED
        else "not at any length or pass measured",
    )
