import numpy as np
import pytest
from scipy.special import betaincinv

from rsd.views.draws import beta


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.8, 1.0, 5.0, 50.0])
def test_beta_gives_scipys_quantiles(alpha):
    quantile = np.append(np.random.default_rng(0).random(10_000), [2**-53, 0.5, 1 - 2**-53])
    assert np.abs(beta(alpha, quantile) - betaincinv(alpha, alpha, quantile)).max() < 1e-13
    assert 0 <= beta(alpha, np.zeros(1)) < 1e-5
