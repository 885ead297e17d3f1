"""R^2 of every column given the others, against a regression with residuals, and what rows contribute to it."""

import numpy as np
import pytest
import torch

from sparsify_cli.maths.linear_dependence import chance_level, linear_dependence, optimism


def regression(table, column) -> float:
    """R^2 by least squares, written out."""
    y, rest = table[:, column], np.delete(table, column, axis=1)
    design = np.column_stack([rest, np.ones(len(table))])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()


@pytest.mark.parametrize("values", [2, 7])
def test_it_is_least_squares(values):
    """Bits and larger numbers, with a copy and a constant among the columns."""
    table = torch.randint(values, (80, 4), generator=torch.Generator().manual_seed(values))
    table = torch.cat([table, table[:, :1], torch.ones(80, 1, dtype=torch.int64), table[:, 1:2] + table[:, 2:3]], dim=1)
    found = linear_dependence(table).r_squared
    assert found[5].isnan()
    assert [float(found[j]) for j in (0, 1, 2, 3, 4, 6)] == pytest.approx(
        [regression(table.numpy(), j) for j in (0, 1, 2, 3, 4, 6)], abs=1e-9
    )


def test_rows_contribute_what_leaving_them_out_takes():
    """The mean of the contributions is R^2, and each is n times what the row moves, to first order."""
    table = torch.randint(2, (2000, 3), generator=torch.Generator().manual_seed(0))
    table[:, 2] = torch.where(torch.arange(2000) % 3 > 0, table[:, 0], table[:, 2])
    whole, part = linear_dependence(table), linear_dependence(table[1:])
    assert whole.contributions.mean(dim=0).tolist() == pytest.approx(whole.r_squared.tolist(), abs=1e-12)
    moved = 2000 * (whole.r_squared - part.r_squared) + whole.r_squared
    assert whole.contributions[0].tolist() == pytest.approx(moved.tolist(), abs=0.01)


def test_what_chance_shows():
    """39 attributes without a link on 400 rows: 39 / 399 on average over many draws, above the upper end in about 1 of 40."""
    usual, most = chance_level(19, 400)
    draws = [linear_dependence(torch.randint(2, (400, 20), generator=torch.Generator().manual_seed(s))).r_squared for s in range(60)]
    seen = torch.stack(draws).flatten()
    assert usual == pytest.approx(19 / 399) and float(seen.mean()) == pytest.approx(usual, rel=0.05)
    assert 0.01 < float((seen > most).double().mean()) < 0.045
    assert chance_level(0, 10) == (0.0, 0.0) and chance_level(50, 20) == (1.0, 1.0)


def test_what_fitting_adds():
    """R^2 of .5 with 10 regressors on 111 rows is .45 adjusted; with as many regressors as rows nothing is left."""
    assert optimism(0.5, 10, 111) == pytest.approx(0.05) and optimism(0.9, 10, 11) == 0.9
