"""Spectra against closed forms, naive loops and autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import aslinearoperator
from torch import nn

import depprobe
from depprobe import store
from depprobe.cli.summaries import summary_of
from depprobe.dynamics.pseudospectrum import smallest_singular_values
from depprobe.dynamics.spectra import leading_spectrum, spectrum_of
from depprobe.errors import BadInput


class Holder(nn.Module):
    """A user's module that holds matrices by name."""

    def __init__(self, **weights: np.ndarray) -> None:
        super().__init__()
        for name, value in weights.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))


def complex_of(ds, index=0):
    values = ds.eigenvalue.isel(weight=index)
    found = values.sel(part="real").values + 1j * values.sel(part="imag").values
    return found[np.isfinite(found)]


def matched(found, expected):
    """Largest distance of an eigenvalue found from the nearest expected one, and the other way round."""
    gaps = np.abs(found[:, None] - expected[None, :])
    return max(gaps.min(0).max(), gaps.min(1).max())


# --- closed forms ---------------------------------------------------------------------------------------


def test_v27_default_rnn_weights_follow_the_circular_law():
    ds = depprobe.spectrum("rnn", d=512, seeds=2, grid=0, powers=2)
    assert float(ds.spectral_radius.mean()) == pytest.approx(0.57735, rel=0.04)
    assert float(ds.largest_singular_value.mean()) == pytest.approx(1.1547, rel=0.03)
    np.testing.assert_allclose(ds.circular_radius, 0.57735, rtol=0.01)
    assert ds.weight.values.tolist() == ["weight_hh_l0 seed 0", "weight_hh_l0 seed 1"]


def test_v2_orthogonal_weights_are_normal_with_one_modulus():
    ds = depprobe.spectrum("lstm:gain=0.9,orthogonal=true", d=12)
    assert ds.weight.values.tolist() == [f"weight_hh_l0[{gate}]" for gate in "ifgo"]
    for i in range(4):
        np.testing.assert_allclose(np.abs(complex_of(ds, i)), 0.9, rtol=1e-6)
    np.testing.assert_allclose(ds.singular_value, 0.9, rtol=1e-6)
    assert float(ds.henrici.max()) < 1e-6
    assert float(np.abs(ds.log_condition).max()) < 1e-6
    assert ds.growth_power.values.tolist() == [0] * 4


def test_a_normal_matrix_departs_by_nothing_and_sigma_min_is_the_distance_to_the_spectrum():
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    blocks = np.zeros((6, 6))
    blocks[:2, :2], blocks[2:4, 2:4] = [[0.3, 0.4], [-0.4, 0.3]], [[-0.5, 0.1], [-0.1, -0.5]]
    blocks[4, 4], blocks[5, 5] = 0.9, -0.2
    expected = np.array([0.3 + 0.4j, 0.3 - 0.4j, -0.5 + 0.1j, -0.5 - 0.1j, 0.9, -0.2])
    ds = depprobe.spectrum(Holder(W=Q @ blocks @ Q.T), weight="W", grid=9)
    assert float(ds.henrici[0]) < 1e-14
    assert matched(complex_of(ds), expected) < 1e-14
    radius = float(ds.grid_radius[0])
    z = radius * (ds.column.values[None, :] + 1j * ds.row.values[:, None])
    distance = np.abs(z[..., None] - expected).min(-1)
    np.testing.assert_allclose(np.exp(ds.log_resolvent[0]), distance, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("a", [0.5, 0.8])
def test_a_jordan_block_grows_before_it_decays(a):
    # J^k = [[a^k, k a^(k-1) c], [0, a^k]]
    c = 10.0
    norms = [np.linalg.norm([[a**k, k * a ** (k - 1) * c], [0, a**k]], 2) if k else 1.0 for k in range(200)]
    found = spectrum_of(np.array([[a, c], [0, a]]), powers=200)
    assert found.growth_power == int(np.argmax(norms))
    assert found.log_growth == pytest.approx(np.log(max(norms)), rel=1e-12)
    assert found.growth_settled
    # eigenvalues a, a; departure c / sqrt(2 a^2 + c^2)
    assert found.henrici == pytest.approx(c / np.hypot(np.sqrt(2) * a, c), rel=1e-12)
    assert found.eigenvalues == pytest.approx([a, a])


def test_the_pseudospectrum_of_a_nilpotent_block_is_known():
    # sigma_min of [[z, -1], [0, z]] at |z| = r: ((2 r^2 + 1 - sqrt(4 r^2 + 1)) / 2)^(1/2)
    T = np.array([[0, 1], [0, 0]], complex)
    z = np.array([1.0, 0.5j, -0.1 + 0.1j])
    r2 = np.abs(z) ** 2
    exact = np.sqrt((2 * r2 + 1 - np.sqrt(4 * r2 + 1)) / 2)
    np.testing.assert_allclose(np.exp(smallest_singular_values(T, z)), exact, rtol=1e-6)


def test_growth_far_beyond_floats_is_carried_in_logs():
    found = spectrum_of(1e200 * np.eye(3), powers=50)
    assert found.log_growth == pytest.approx(50 * 200 * np.log(10), rel=1e-12)
    assert (found.growth_power, found.growth_settled) == (50, False)
    assert spectrum_of(np.diag([1.0, 0.0]), powers=3).log_condition == np.inf


# --- naive loops ----------------------------------------------------------------------------------------


def test_random_weights_against_numpy():
    torch.manual_seed(0)
    module = nn.GRU(3, 41, num_layers=2, bidirectional=True).double()
    ds = depprobe.spectrum(module, powers=30, grid=5)
    assert ds.sizes["weight"] == 12
    gates = {"r": 0, "z": 1, "n": 2}
    for i, label in enumerate(ds.weight.values):
        name, gate = label.removesuffix("]").split("[")
        W = getattr(module, name).detach().numpy()[41 * gates[gate] : 41 * (gates[gate] + 1)]
        values = np.linalg.eigvals(W)
        assert matched(complex_of(ds, i), values) < 1e-12
        moduli = np.abs(complex_of(ds, i))
        assert (np.diff(moduli) <= 0).all()
        np.testing.assert_allclose(ds.singular_value[i], np.linalg.svd(W)[1], rtol=1e-10)
        share = np.sqrt(1 - (np.abs(values) ** 2).sum() / np.linalg.norm(W) ** 2)
        assert float(ds.henrici[i]) == pytest.approx(share, rel=1e-9)
        norms = [np.linalg.norm(np.linalg.matrix_power(W, k), 2) for k in range(31)]
        assert float(ds.log_growth[i]) == pytest.approx(np.log(max(norms)), abs=1e-9)
        z = float(ds.grid_radius[i]) * (ds.column.values[None, :] + 1j * ds.row.values[:, None])
        naive = [np.linalg.svd(w * np.eye(41) - W, compute_uv=False)[-1] for w in z.ravel()]
        np.testing.assert_allclose(np.exp(ds.log_resolvent[i]).values.ravel(), naive, rtol=1e-3)


def test_leading_modes_agree_with_the_dense_ones():
    rng = np.random.default_rng(1)
    W = rng.standard_normal((230, 230)) / np.sqrt(230) + np.diag(np.linspace(0, 2, 230))
    whole, leading = spectrum_of(W, 6), leading_spectrum(aslinearoperator(W), 7, 6)
    np.testing.assert_allclose(leading.eigenvalues[:6], whole.eigenvalues[:6], rtol=1e-9)
    np.testing.assert_allclose(leading.singular_values, whole.singular_values[:7], rtol=1e-9)
    assert leading.log_growth == pytest.approx(whole.log_growth, rel=1e-5)
    assert leading.residual < 1e-10
    assert np.isnan(leading.henrici)


def test_modes_are_the_leading_ones_of_any_matrix():
    """Fewer than there are: the leading ones; more: all there are, which the summary says."""
    whole = depprobe.spectrum(["rnn:gain=1", "lstm"], d=9)
    few = depprobe.spectrum(["rnn:gain=1", "lstm"], d=9, modes=4)
    assert few.sizes["mode"] == 4
    for name in ("eigenvalue", "singular_value"):
        np.testing.assert_array_equal(few[name], whole[name].isel(mode=slice(4)))
    assert few.drop_dims("mode").equals(whole.drop_dims("mode"))
    assert not any("modes were asked for" in line for line in summary_of(few).notes)
    many = depprobe.spectrum(["rnn:gain=1", "lstm"], d=9, modes=40)
    assert many.equals(whole)
    assert any("40 modes were asked for" in line and "from 9 wide" in line for line in summary_of(many).notes)


# --- steps against autograd -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rnn", "relu", "gru", "lstm", "projected"])
@pytest.mark.parametrize("dense", [1024, 4], ids=["dense", "matrix-free"])
def test_step_jacobians_against_autograd(kind, dense):
    torch.manual_seed(3)
    build = {
        "rnn": lambda: nn.RNN(3, 14),
        "relu": lambda: nn.RNN(3, 14, nonlinearity="relu"),
        "gru": lambda: nn.GRU(3, 14),
        "lstm": lambda: nn.LSTM(3, 14),
        "projected": lambda: nn.LSTM(3, 14, proj_size=5),
    }
    module, x, k = build[kind]().double(), torch.randn(9, 3).double(), 6
    is_lstm = isinstance(module, nn.LSTM)
    _, before = module(x[:k])
    before = before if is_lstm else (before,)
    widths = [part.shape[-1] for part in before]

    def step(state):
        parts = tuple(part[None] for part in state.split(widths))
        _, after = module(x[k : k + 1], parts if is_lstm else parts[0])
        return torch.cat([part[0] for part in (after if is_lstm else (after,))])

    state = torch.cat([part[0].detach() for part in before])
    J = torch.autograd.functional.jacobian(step, state).numpy()
    ds = depprobe.spectrum(module, x, steps=[k], modes=4 if dense == 4 else None, dense=dense, powers=4)
    assert ds.weight.values.tolist() == [f"step l0 k={k}"]
    values = np.linalg.eigvals(J)
    largest = values[np.argsort(-np.abs(values))]
    found = complex_of(ds)
    np.testing.assert_allclose(np.abs(found[:3]), np.abs(largest[:3]), rtol=1e-8)
    assert np.abs(found[:3, None] - values[None, :]).min(1).max() < 1e-9
    singular = np.linalg.svd(J, compute_uv=False)[: ds.sizes["mode"]]
    np.testing.assert_allclose(ds.singular_value[0], singular, rtol=1e-8, atol=1e-12)
    assert bool(np.isnan(ds.residual[0])) == (dense > 4)


def test_a_reading_backwards_steps_at_the_position_named():
    torch.manual_seed(0)
    both = nn.RNN(3, 6, bidirectional=True).double()
    x = torch.randn(9, 3).double()
    single = nn.RNN(3, 6).double()
    single.load_state_dict(
        {k.removesuffix("_reverse"): v for k, v in both.state_dict().items() if k.endswith("_reverse")}
    )
    there = depprobe.spectrum(both, x, steps=[2]).sel(weight="step l0_reverse k=2")
    here = depprobe.spectrum(single, x.flip(0), steps=[6]).isel(weight=0)
    np.testing.assert_array_equal(there.eigenvalue, here.eigenvalue)


# --- what users bring, and the dataset ------------------------------------------------------------------


def test_a_projected_lstm_gives_the_product_that_is_square():
    module = nn.LSTM(3, 8, proj_size=5).double()
    ds = depprobe.spectrum(module)
    assert ds.weight.values[1] == "weight_hh_l0[f] @ weight_hr_l0"
    W = (module.weight_hh_l0[8:16] @ module.weight_hr_l0).detach().numpy()
    assert matched(complex_of(ds, 1), np.linalg.eigvals(W)) < 1e-7
    np.testing.assert_allclose(ds.singular_value[1, :5], np.linalg.svd(W)[1][:5], rtol=1e-10)


def test_recurrent_parts_of_a_module_are_found_and_narrow_matrices_padded():
    model = nn.ModuleDict({"a": nn.RNN(2, 4), "b": nn.GRUCell(2, 3)})
    ds = depprobe.spectrum(model)
    names = ["a.weight_hh_l0", "b.weight_hh[r]", "b.weight_hh[z]", "b.weight_hh[n]"]
    assert ds.weight.values.tolist() == names
    assert ds.matrix_width.values.tolist() == [4, 3, 3, 3]
    assert np.isnan(ds.singular_value.values[1:, 3]).all()


def test_the_dataset_is_the_same_bit_for_bit_and_can_be_stored(tmp_path):
    one, two = (depprobe.spectrum(["rnn", "gru"], d=9, steps="every:5", n=10) for _ in range(2))
    assert one.identical(two)
    store.validate(one)
    assert store.load(store.save(one, tmp_path / "a.nc")).identical(one)
    assert one.weight.values[0] == "rnn step l0 k=4"


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("Linear has no recurrent weight; name a square one: weight", {"module": nn.Linear(4, 4)}),
        ("no weight 'W'; square weights: weight$", {"module": nn.Linear(4, 4), "weight": "W"}),
        (
            "weight 'weight' is 3 x 4, not a square matrix; square weights: none",
            {"module": nn.Linear(4, 3), "weight": "weight"},
        ),
        ("attention:heads=2 has no recurrent weight", {"module": "attention:heads=2", "d": 4}),
        ("no recurrence to take steps of", {"module": "conv", "d": 4, "n": 9, "steps": "last"}),
        ("weight or steps, not both", {"module": "rnn", "weight": "a", "steps": "last"}),
        ("needs its input", {"module": nn.RNN(2, 3), "steps": "last"}),
        ("target 9 lies outside the 5", {"module": nn.RNN(2, 3), "x": np.ones((5, 2)), "steps": [9]}),
        ("powers must be at least 1, not 0", {"module": "rnn", "d": 4, "powers": 0}),
        ("grid must be 0 or an odd number", {"module": "rnn", "d": 4, "grid": 8}),
        ("grid=9 has no meaning .*all are wider than 4", {"module": "rnn", "d": 9, "dense": 4, "grid": 9}),
        ("modes must lie between 1 and", {"module": "rnn", "d": 9, "dense": 4, "modes": 8}),
        ("holds NaN or Inf", {"module": Holder(W=np.full((2, 2), np.nan)), "weight": "W"}),
        ("the spectrum of 1 matrix up to 200 wide needs", {"module": "rnn", "d": 200, "memory": "2MB"}),
    ],
)
def test_bad_calls_are_one_clear_line(match, arguments):
    with pytest.raises(BadInput, match=match):
        depprobe.spectrum(**arguments)


# --- the figure -----------------------------------------------------------------------------------------


def test_the_figure_shows_what_the_dataset_holds():
    ds = depprobe.spectrum("gru", d=9, grid=9)
    drawn = depprobe.figures.spectrum(ds)
    assert "seed" in drawn.figure.get_suptitle()
    assert len(drawn.axes) == 3
    for i, (ax, points, circle) in enumerate(zip(drawn.axes, drawn.eigenvalues, drawn.circles, strict=True)):
        np.testing.assert_array_equal(points.get_offsets(), ds.eigenvalue[i])
        assert circle.radius == pytest.approx(float(ds.circular_radius[i]))
        assert ax.get_aspect() == 1
    assert all(contour is not None for contour in drawn.contours)


def test_the_figure_refuses_other_datasets():
    with pytest.raises(BadInput, match="not a dataset of spectra"):
        depprobe.figures.spectrum(depprobe.jacobian("rnn", n=9, d=3))


@pytest.mark.parametrize(("layer", "d"), [("rnn", 24), ("lstm", 16)])
def test_figure_has_no_empty_band_and_labels_stay_inside(layer, d):
    figure = depprobe.figures.spectrum(depprobe.spectrum(layer, d=d)).figure
    figure.draw_without_rendering()
    assert figure.get_suptitle().startswith(f"{layer},  $d$ = {d},  seed 0")
    (title,) = figure.texts
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    gap = title.get_window_extent().y0 - max(box.y1 for box in boxes)
    assert 0 < gap < 0.4 * figure.dpi
    for ax in figure.axes:
        label = ax.xaxis.label.get_window_extent()
        assert label.x1 < figure.bbox.x1 - 0.01 * figure.dpi
        assert label.width <= ax.get_window_extent().width


def test_a_row_of_panels_stands_close_below_its_title():
    drawn = depprobe.figures.spectrum(depprobe.spectrum("lstm", d=12))
    figure = drawn.figure
    figure.draw_without_rendering()
    top = max(ax.get_tightbbox().y1 for ax in drawn.axes)
    gap = (figure.texts[0].get_window_extent().y0 - top) / figure.dpi
    assert 0 <= gap < 0.2  # inches


def recurrent_of(W):
    module = nn.RNN(len(W), len(W)).double()
    with torch.no_grad():
        module.weight_hh_l0.copy_(torch.as_tensor(W))
    return module


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_a_matrix_of_any_size_has_the_spectrum_of_its_multiple(size):
    W = np.random.default_rng(0).normal(size=(6, 6))
    plain, scaled = (depprobe.spectrum(recurrent_of(one), grid=5) for one in (W, size * W))
    for name in ("spectral_radius", "largest_singular_value", "circular_radius"):
        np.testing.assert_allclose(scaled[name], size * plain[name])
    for name in ("henrici", "log_condition"):
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-8)
    assert np.isfinite(scaled["log_resolvent"]).all()
    # 64 powers of what is a number exceed the floats
    (row,) = summary_of(scaled).columns
    assert any("(power 64)" in cell for cell in row) == (size > 1)


def test_contours_below_the_grids_spacing_are_drawn_where_they_are_wide():
    jordan = depprobe.spectrum(recurrent_of(0.5 * np.eye(12) + np.eye(12, k=1)))
    (drawn,) = depprobe.figures.spectrum(jordan).contours
    assert -5 in drawn.levels
    # around every eigenvalue of a normal matrix it is a circle of radius 0.01, between the points of the grid
    (drawn,) = depprobe.figures.spectrum(depprobe.spectrum(recurrent_of(np.diag([0.9, 0.1, -0.5])))).contours
    assert min(drawn.levels) >= -1
