"""What layers read: windows of noise, text, arrays and tables, and what is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from depprobe.errors import BadInput
from depprobe.runs.inputs import Source, joined, read

ROWS = np.random.default_rng(3).standard_normal((21, 3))


def test_noise_is_standard_normal_and_fixed_by_the_seed():
    noise = read("noise")
    x = noise.windows(500, 40, samples=2, seed=1)
    assert x.shape == (2, 500, 40)
    assert abs(x.mean()) < 0.03
    assert x.std() == pytest.approx(1, abs=0.03)
    assert (x == noise.windows(500, 40, samples=2, seed=1)).all()
    assert not np.isclose(x, noise.windows(500, 40, samples=2, seed=2)).any()
    assert not np.isclose(x[0], x[1]).any()
    assert (noise.width, noise.length) == (None, None)


def test_equal_bytes_are_equal_rows_whatever_the_file_and_the_seed(tmp_path):
    for name, text in {"a.txt": "abcab", "b.md": "xbaxx"}.items():
        (tmp_path / name).write_text(text)
    a, b = (
        read(str(tmp_path / name)).windows(5, 7, seed=seed)[0] for seed, name in enumerate(["a.txt", "b.md"])
    )
    assert a.shape == (5, 7)
    assert (a[0] == a[3]).all()
    assert (a[1] == b[1]).all()
    assert (a[0] == b[2]).all()
    assert len(np.unique(np.concatenate([a, b]), axis=0)) == len(set("abcx"))


def test_text_of_any_bytes_is_read(tmp_path):
    text = "".join(map(chr, range(1, 600))).encode()
    (tmp_path / "every.txt").write_bytes(text)
    rows = read(str(tmp_path / "every.txt")).windows(len(text), 5)[0]
    assert len(np.unique(rows, axis=0)) == len(set(text))
    assert rows.std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_keep_their_rows_and_width(tmp_path, dtype, order):
    rows = np.asarray(100 * ROWS**2, dtype=dtype, order=order)
    np.save(tmp_path / "x.npy", rows)
    source = read(str(tmp_path / "x.npy"))
    assert (source.width, source.length, source.name) == (3, 21, "x.npy")
    np.save(tmp_path / "ids.npy", np.arange(7))
    assert read(str(tmp_path / "ids.npy")).windows(5, 1).tolist() == [[[0], [1], [2], [3], [4]]]
    window = source.windows(9, 50)
    assert window.dtype == np.float64
    assert (window == rows[None, :9]).all()


def test_an_array_of_a_later_format_version_is_read(tmp_path):
    with (tmp_path / "x.npy").open("wb") as stream:
        np.lib.format.write_array(stream, ROWS, version=(2, 0))
    assert (read(str(tmp_path / "x.npy")).data == ROWS).all()


@pytest.mark.parametrize("head", ["", "time,price,volume\n", "\ufeff", "\ufefftime,price,volume\n", "\n \n"])
def test_csv_with_and_without_a_header(tmp_path, head):
    body = "\n".join(",".join(map(repr, map(float, row))) for row in ROWS)
    (tmp_path / "x.csv").write_text(head + body + "\n\n", encoding="utf-8")
    source = read(str(tmp_path / "x.csv"))
    assert source.data is not None
    assert (source.data == ROWS).all()


@pytest.mark.parametrize(
    ("n", "samples", "starts"), [(5, 1, [0]), (5, 2, [0, 16]), (5, 4, [0, 5, 10, 16]), (7, 3, [0, 7, 14])]
)
def test_windows_are_spaced_evenly_from_the_first_position_to_the_last(n, samples, starts):
    found = Source("rows", data=ROWS).windows(n, 3, samples=samples)
    assert (found == np.stack([ROWS[start : start + n] for start in starts])).all()
    letters = Source("text", text=bytes(range(21)))
    table = letters.windows(21, 3)[0]
    assert (letters.windows(n, 3, samples=samples) == np.stack([table[s : s + n] for s in starts])).all()


def test_the_projection_is_fixed_linear_and_keeps_the_scale():
    x = np.random.default_rng(0).standard_normal((2, 300, 30))
    y = joined(x, 80)
    assert y.shape == (2, 300, 80)
    assert (y == joined(x, 80)).all()
    np.testing.assert_allclose(
        joined(3 * x - 1, 80), 3 * y - joined(np.ones_like(x), 80), rtol=1e-9, atol=1e-9
    )
    assert y.std() == pytest.approx(1, abs=0.1)
    assert np.linalg.matrix_rank(y[0]) == 30


@pytest.mark.parametrize(
    ("n", "samples", "match"),
    [
        (1, 1, "n must be at least 2, not 1"),
        (2, 0, "samples must be at least 1, not 0"),
        (6, 4, r"rows holds 3 windows of n = 6 .* samples = 4 were .* --samples 3 or less, or --n 5 or less"),
        (21, 2, r"rows holds 1 window of n = 21 .*; use --samples 1, or --n 10 or less"),
        (2, 11, r"rows holds 10 windows of n = 2 .*; use --samples 10 or less$"),
        (22, 1, r"rows holds 21 positions and n = 22 were asked for; use --n 21 or less"),
        (None, 1, r"rows holds 21 positions and the default n = 1000 is longer; use --n 21 or less"),
    ],
)
def test_windows_that_cannot_be_given(n, samples, match):
    with pytest.raises(BadInput, match=match):
        Source("rows", data=ROWS).windows(n, 3, samples=samples)
    with pytest.raises(BadInput, match=match):
        Source("rows", data=ROWS).check(n, samples)


@pytest.mark.parametrize(
    ("name", "reader"),
    [("t.parquet", "read_parquet"), ("t.FEATHER", "read_feather"), ("t.xlsx", "read_excel")],
)
def test_a_table_of_another_kind_is_refused_with_the_way_out(tmp_path, name, reader):
    (tmp_path / name).write_bytes(b"PAR1")
    call = rf"pandas.{reader}\('{name}'\).to_csv\('t.csv', index=False\)"
    with pytest.raises(BadInput, match=f"use noise or a .txt, .* file; in Python: {call}$"):
        read(tmp_path / name)
    assert callable(getattr(pd, reader))


def test_a_source_of_one_position_suggests_no_impossible_length():
    with pytest.raises(BadInput, match=r"holds 1 position .*; use a longer one"):
        Source("t", text=b"a").windows(5, 3)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("x.npy", b"\x80\x04]q.", "not a .npy file; pickles are refused"),
        ("x.npy", b"", "is empty"),
        ("x.npy", b"\x93NUMPY\x09\x00", "cannot read input"),
        ("x.csv", b"1,2\n1\n", "line 2 has 1 column and line 1 has 2"),
        ("x.csv", b"1,2\n\n1,two\n", "line 3, column '1' holds 'two', not a number"),
        ("x.csv", b"1,2\ninf,3\n", "holds NaN or Inf"),
        ("x.csv", b'1,"' + b"2" * 200_000 + b'"\n', "cannot read input .*field"),
        (
            "x.npz",
            b"PK\x03\x04",
            "cannot read .* as an input: .npz is several arrays; use noise or a .txt, .npy, .csv,",
        ),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=match):
        read(str(tmp_path / name))


def test_an_array_that_claims_more_than_the_file_holds_is_not_allocated(tmp_path):
    with (tmp_path / "x.npy").open("wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)}
        np.lib.format.write_array_header_1_0(stream, header)
    with pytest.raises(BadInput, match=r"truncated, 0 B of the 21\.8 TiB"):
        read(str(tmp_path / "x.npy"))


def test_a_file_that_may_not_be_read_says_why(tmp_path, monkeypatch):
    path = tmp_path / "x.txt"
    path.write_text("text")

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", forbidden)
    with pytest.raises(BadInput, match=r"cannot read input .*Permission denied"):
        read(str(path))


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(BadInput, match="no such input 'noize'; use noise or"):
        read("noize")
    with pytest.raises(BadInput, match="is a folder"):
        read(str(tmp_path))


@pytest.mark.parametrize(
    ("shape", "way"), [((2, 9, 3), "; save one sample, or give all to depprobe.jacobian in Python"), ((), "")]
)
def test_arrays_of_other_shapes_are_refused_with_the_way_out(tmp_path, shape, way):
    np.save(tmp_path / "x.npy", np.zeros(shape))
    with pytest.raises(BadInput) as caught:
        read(str(tmp_path / "x.npy"))
    said = f"has shape {shape}; it must be (length,) or (length, width){way}"
    assert str(caught.value).endswith(said)
