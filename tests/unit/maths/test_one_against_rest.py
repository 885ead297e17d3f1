"""Predictions as yes-or-no questions."""

import pytest
import torch

from sparsify_cli.errors import BadData
from sparsify_cli.maths.one_against_rest import answers, asked, asked_of, shares
from tests.predictions import said


@pytest.mark.parametrize(
    ("labels", "outputs", "table"),
    [
        ([[0, 1], [1, 1]], 2, [[False, True], [True, True]]),
        ([0, 1], 2, [[False], [True]]),
        ([0, 2], 3, [[True, False, False], [False, False, True]]),
    ],
    ids=["attributes", "two classes", "three classes"],
)
def test_answers_and_their_shares(labels, outputs, table):
    """Every attribute, label 1 of two classes, every class of more; shares are the means of the answers."""
    given = torch.tensor(labels)
    assert answers(given, outputs).tolist() == table
    assert shares(given, outputs).tolist() == torch.tensor(table).double().mean(dim=0).tolist()
    assert len(asked_of(given, outputs)) == 2


def test_names():
    """The second of two classes, all of more."""
    assert asked(said([[0.5, 0.5]], [0], classes=["no", "yes"])) == ("yes",)
    assert asked(said([[0.2, 0.3, 0.5]], [0], classes=["a"])) == ("a", "1", "2")


def test_as_many_attributes_as_outputs():
    """Truth about other attributes is refused instead of compared."""
    for function in (answers, shares):
        with pytest.raises(BadData, match="1 attributes, the model 2"):
            function(torch.ones(3, 1, dtype=torch.int64), 2)
