"""Exemplars by hand."""

import pytest

from sparsify_cli.maths.exemplars import exemplar_ids, modal_labels
from tests.predictions import answering, said


def test_modal_label_is_the_majority_and_the_lowest_of_a_tie():
    """Votes 2,2,1 -> 2; votes 0,2,1 -> 0."""
    population = [answering(labels, [0, 0]) for labels in ([2, 0], [2, 2], [1, 1])]
    assert modal_labels(population).tolist() == [2, 0]


def test_exemplars_are_the_changed_answers_most_confident_first():
    """Samples 1 and 2 change; sample 2 was the surer one, so it comes first, with all its facts."""
    dense = said([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8]], [0, 0, 1])
    compressed = said([[0.6, 0.4], [0.4, 0.6], [0.55, 0.45]], [0, 0, 1])
    found = exemplar_ids([dense], [compressed])
    assert [(e.id, e.true, e.dense, e.compressed) for e in found] == [("s2", 1, 1, 0), ("s1", 0, 0, 1)]
    assert [e.dense_confidence for e in found] == pytest.approx([0.8, 0.7])
    assert [e.compressed_confidence for e in found] == pytest.approx([0.55, 0.6])


def test_one_deviating_seed_does_not_make_an_exemplar():
    """Two of three compressed models keep the answer, so the usual answer is kept."""
    dense = [answering([0], [0])]
    assert exemplar_ids(dense, [answering([k], [0]) for k in (0, 1, 0)]) == []
    assert [e.id for e in exemplar_ids(dense, [answering([k], [0]) for k in (1, 1, 0)])] == ["s0"]


def test_equal_confidence_keeps_the_order_of_samples():
    """Ties of confidence are listed in sample order."""
    found = exemplar_ids([answering([0, 0, 0], [0, 0, 0])], [answering([1, 0, 2], [0, 0, 0])])
    assert [e.id for e in found] == ["s0", "s2"]
