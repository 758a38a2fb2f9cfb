r"""The gain at which the zero state loses stability, recurrent weights N(0, g^2 / N), no input.

At h = c = 0 the step Jacobian is linear in one random matrix, whose eigenvalues fill a disc of radius g:

    RNN    W_hh                            g = 1 / phi'(0) = 1
    GRU    z + (1 - z) r W_hn              g = 1 / r
    LSTM   f + i o W_hg  (and zeros)       g = (1 - f) / (i o)

Gates take the value sigma(bias). The GRU is torch's, with the reset gate after the product.
Source: Sompolinsky et al. 1988 (RNN); linearisation of the cells as torch.nn documents them;
Can, Krishnamurthy and Schwab 2020 for gated cells.
"""

from __future__ import annotations

from scipy.special import expit


def critical_gain_rnn(slope: float = 1.0) -> float:
    """Critical gain of a plain recurrence whose nonlinearity has this slope at zero.

    Examples
    --------
    >>> critical_gain_rnn()
    1.0
    """
    return 1.0 / slope


def critical_gain_gru(reset_bias: float = 0.0) -> float:
    """Critical gain of a GRU; the update gate slows the growth but does not move its onset.

    Examples
    --------
    >>> critical_gain_gru()
    2.0
    """
    return float(1.0 / expit(reset_bias))


def critical_gain_lstm(forget_bias: float = 0.0, input_bias: float = 0.0, output_bias: float = 0.0) -> float:
    """Critical gain of an LSTM.

    Examples
    --------
    >>> critical_gain_lstm()
    2.0
    """
    return float(expit(-forget_bias) / (expit(input_bias) * expit(output_bias)))
