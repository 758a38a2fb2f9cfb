"""Probes of a language model and Lyapunov exponents on a GPU, beside the passes and products they need.

    GPT-2       depprobe.jacobian(method="probes"), 64 targets with one probe each, over the forward pass at n
    Lyapunov    frames of 64 columns through an LSTM, over its step products and QR by hand, as many of each

Everything runs in float32 on one card, warm; of the exponents the trajectory is on both sides. First calls
are shown apart. Usage: python benchmarks/gpu_probes.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import depprobe
from depprobe.core.device import full_precision
from depprobe.core.options import wanted_positions
from depprobe.dynamics.benettin import Growth, growth
from depprobe.dynamics.trajectory import Recurrence

DEVICE = "cuda"
#: of GPT-2, and at most so many forward passes a target
LAYERS, D, HEADS, N, TARGETS, PASSES = 12, 768, 12, 1024, 64, 4.0
#: of the LSTM: width, exponents, steps, and at most so many times the bare products
WIDTH, EXPONENTS, STEPS, TIMES = 512, 64, 10_000, 1.5

Row = tuple[str, float, float, str]


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of one call and all that it started on the device, and what it gives."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    found = run()
    torch.cuda.synchronize()
    return time.perf_counter() - start, found


def language_model() -> Row:
    """GPT-2 with random weights."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=1000,
        n_positions=N,
        n_embd=D,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=0,
    )
    config.use_cache = False
    model: Any = transformers.GPT2Model(config).eval().to(DEVICE)
    ids = torch.randint(0, 1000, (N,), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    targets = wanted_positions(f"random:{TARGETS}", N, 0).tolist()

    def passed() -> tuple[Tensor, Tensor]:
        leaf = model.wte(ids).detach().requires_grad_()
        return leaf, model(inputs_embeds=leaf[None]).last_hidden_state[0]

    def curve() -> Any:
        return depprobe.jacobian(model, ids, method="probes", targets=targets, probes=1)

    first, _ = seconds(curve)
    with full_precision():
        passed()
        forward = float(np.median([seconds(passed)[0] for _ in range(7)]))
        leaf, y = passed()
        back = [
            seconds(lambda: torch.autograd.grad(y[-1].sum(), leaf, retain_graph=True))[0] for _ in range(5)
        ]
    backward = float(np.median(back))
    taken, ds = min((seconds(curve) for _ in range(2)), key=lambda pair: pair[0])
    known = int(np.isfinite(ds["log_norm"].values).sum())
    note = (
        f"{taken:.2f} s, forward pass {1e3 * forward:.2f} ms, backward {1e3 * backward:.2f} ms, "
        f"first call {first:.2f} s; {known} norms"
    )
    case = f"GPT-2, {LAYERS} layers, d={D}, n={N}, {TARGETS} targets"
    return case, PASSES, taken / TARGETS / forward, note


def by_hand(module: nn.LSTM, x: Tensor, frame: Tensor, interval: int) -> Tensor:
    """Exponents (m,) from step products with the frame and a QR every so many steps."""
    d, n = module.hidden_size, len(x)
    W, U = module.weight_hh_l0, module.weight_ih_l0
    h = module(x[:, None])[0][:, 0]
    before = torch.cat([h.new_zeros(1, d), h[:-1]])
    z = x @ U.T + before @ W.T + module.bias_ih_l0 + module.bias_hh_l0
    zi, zf, zg, zo = z.chunk(4, 1)
    i, f, g, o = zi.sigmoid(), zf.sigmoid(), zg.tanh(), zo.sigmoid()
    cells = [torch.zeros_like(f[0])]
    for k in range(n):
        cells.append(torch.addcmul(i[k] * g[k], f[k], cells[-1]))
    c, old = torch.stack(cells[1:]), torch.stack(cells[:-1])
    slopes = torch.stack([i * (1 - i) * g, f * (1 - f) * old, i * (1 - g * g), o * (1 - o) * c.tanh()], 1)
    to_h, kept, slopes = (o * (1 - c.tanh() ** 2))[..., None], f[..., None], slopes[..., None]
    total = frame.new_zeros(frame.shape[1], dtype=torch.float64)
    for k in range(n):
        moved = (W @ frame[d:]).view(4, d, -1) * slopes[k]
        on_c = torch.addcmul(moved[:3].sum(0), kept[k], frame[:d])
        frame = torch.cat([on_c, torch.addcmul(moved[3], to_h[k], on_c)])
        if (k + 1) % interval == 0 or k + 1 == n:
            frame, upper = torch.linalg.qr(frame)
            total += upper.diagonal().abs().double().log()
    return total / n


def exponents() -> Row:
    """A default LSTM driven by noise."""
    torch.manual_seed(0)
    module = nn.LSTM(WIDTH, WIDTH).to(DEVICE)
    x = torch.randn(STEPS, WIDTH, device=DEVICE)
    frame = torch.linalg.qr(torch.randn(2 * WIDTH, EXPONENTS, device=DEVICE))[0]

    def measured(x: Tensor = x) -> Growth:
        return growth(Recurrence(module).stretches(x), frame, 0, [len(x)])

    with torch.no_grad(), full_precision():
        first, _ = seconds(lambda: measured(x[:1000]))
        by_hand(module, x[:100], frame, 8)
        taken, found = seconds(measured)
        interval = max(1, round(found.interval))
        bare, plain = seconds(lambda: by_hand(module, x, frame, interval))
    apart = float(np.abs(found.increments[0] / STEPS - plain.cpu().numpy()).max())
    note = (
        f"{taken:.2f} s, by hand {bare:.2f} s with a QR every {interval} steps, first call of 1000 steps "
        f"{first:.2f} s; exponents {apart:.1e} apart"
    )
    case = f"Lyapunov, LSTM d={WIDTH}, {EXPONENTS} exponents, {STEPS} steps"
    return case, TIMES, taken / bare, note


def rows() -> list[Row]:
    """Case, ratio at most, ratio measured, and a note."""
    return [language_model(), exponents()]


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device, and torch finds none here")
    print(torch.cuda.get_device_name())
    for case, limit, ratio, note in rows():
        print(f"{case:55s} {ratio:7.2f}, at most {limit:g}  {note}", flush=True)


if __name__ == "__main__":
    main()
