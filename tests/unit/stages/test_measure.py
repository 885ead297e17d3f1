"""Predicting, counting, timing and measuring everything, on modules small enough to know the answer."""

import pytest
import torch
from torch import nn

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.errors import Anomalous, BadData, BadRequest
from sparsify_cli.stages import timing
from sparsify_cli.stages.measure import count_findings, latency, latency_ratio, measure_all, predict, train_marginals
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Report
from sparsify_cli.values.samples import Samples
from tests.predictions import answering


def samples(inputs, targets, **more) -> Samples:
    """Samples with made-up ids."""
    return Samples(torch.tensor(inputs), torch.tensor(targets), tuple(f"s{i}" for i in range(len(targets))), **more)


PLAIN = samples([[1.0, 2.0], [3.0, -1.0], [0.0, 5.0]], [0, 0, 1], groups={"g": ("x", "y", "x")}, classes=("a", "b"))


def test_predict_is_one_pass_in_order():
    """The identity network returns the inputs as logits whatever the batch; ids, groups and class names travel along."""
    for batch in (1, 2, 512):
        found = predict(nn.Identity(), PLAIN, batch=batch)
        assert torch.equal(found.logits, PLAIN.inputs) and found.labels.tolist() == [1, 0, 1]
    assert (found.ids, found.groups, found.classes) == (PLAIN.ids, PLAIN.groups, PLAIN.classes)


def test_predict_evaluates_without_touching_the_module():
    """Dropout is off, batch-norm statistics stay, no gradient is kept, and every part has its own mode back."""
    module = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.9))
    module.train()
    module[0].eval()
    before = module[0].running_mean.clone()
    found = predict(module, PLAIN)
    assert torch.equal(found.logits, predict(module, PLAIN).logits) and not found.logits.requires_grad
    assert torch.equal(module[0].running_mean, before)
    assert (module.training, module[0].training, module[1].training) == (True, False, True)


@pytest.mark.parametrize(
    ("module", "data", "words"),
    [
        (nn.Identity(), samples([[1.0, 2.0]], [2]), ["label", "2 outputs", "first 2"]),
        (nn.Identity(), samples([[[1.0], [2.0]]], [0]), ["shape [1, 2, 1]", "one row of logits"]),
        (nn.Linear(5, 2), samples([[1.0, 2.0]], [0]), ["refuses inputs of shape [2]"]),
        (nn.Flatten(0), samples([[1.0, 2.0]], [0]), ["shape [2]"]),
    ],
    ids=["label", "shape", "inputs", "rows"],
)
def test_predict_refuses_what_does_not_fit(module, data, words):
    """Labels beyond the outputs, inputs the model refuses, outputs that are not logits: a sentence with the numbers."""
    with pytest.raises(BadData) as caught:
        predict(module, data)
    assert all(word in str(caught.value) for word in words)


def test_predict_refuses_emptiness_and_nan():
    """No samples, and outputs that are not numbers."""
    with pytest.raises(BadData, match="no samples"):
        predict(nn.Identity(), PLAIN.take([]))
    with pytest.raises(Anomalous, match="1 of 1"):
        predict(nn.Identity(), samples([[float("nan"), 1.0]], [0]))


def test_the_mode_comes_back_after_an_error():
    """A forward pass that fails leaves the module in train mode as it was."""
    module = nn.Sequential(nn.Linear(5, 2)).train()
    with pytest.raises(BadData):
        predict(module, PLAIN)
    assert module.training and module[0].training


def test_measure_all_follows_the_shelf_and_skips_unmet_needs():
    """Without a dense model there is no churn and no exemplar; with one there is; accuracy comes first."""
    model = answering([0, 1, 2] * 10, [0, 1, 2] * 10)
    alone, both = (Report(tuple(measure_all(evidence))) for evidence in (Evidence((model,)), Evidence((model,), (model,))))
    assert alone.findings[0].name == "accuracy" and alone.get("churn") is None
    assert both.get("churn").value == 0 and both.get("exemplars").value == 0 and both.get("accuracy", of="change").value == 0


def test_measure_all_refuses_what_cannot_be_compared():
    """Other samples, other labels, other outputs, nothing at all."""
    model, other = answering([0, 1], [0, 1]), answering([0, 1], [1, 1])
    with pytest.raises(BadData, match="same samples"):
        measure_all(Evidence((model,), (other,)))
    with pytest.raises(BadData, match="2 and 3 samples"):
        measure_all(Evidence((model,), (answering([0, 1, 2], [0, 1, 2]),)))
    with pytest.raises(BadData, match="3 and 2 outputs"):
        measure_all(Evidence((model,), (predict(nn.Identity(), samples([[1.0, 0.0], [0.0, 1.0]], [0, 1])),)))
    with pytest.raises(BadRequest):
        measure_all(Evidence(()))


def test_train_marginals_are_shares_of_labels():
    """Labels 0, 0, 1 of three classes: 2/3, 1/3, 0."""
    named = samples([[0.0]] * 3, [0, 0, 1], classes=("a", "b", "c"))
    assert train_marginals(named) == pytest.approx((2 / 3, 1 / 3, 0.0))


def test_counts_by_hand():
    """4 masked weights with 3 zeros, 2 biases with 1 zero, batch-norm statistics as bytes only."""
    tensors = {
        "fc.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "fc.bias": torch.tensor([0.0, 1.0]),
        "bn.running_var": torch.ones(2),
        "bn.num_batches_tracked": torch.tensor(7),
    }
    found = Report(tuple(count_findings(tensors, MaskSet({"fc.weight": torch.tensor([[True, False], [False, False]])}))))
    assert found.get("sparsity").value == 0.75 and found.get("sparsity", scope="layer:fc.weight").n == 4
    assert found.get("sparsity_total").value == pytest.approx(4 / 6)
    assert (found.get("nonzeros").value, found.get("parameters").value) == (2, 6)
    assert found.get("bytes_dense").value == 4 * 4 + 2 * 4 + 2 * 4 + 8


def test_counts_without_masks():
    """A dense model has no prunable sparsity, and says so; its zeros still count over all parameters."""
    found = Report(tuple(count_findings({"w": torch.tensor([0.0, 1.0])}, MaskSet())))
    assert found.get("sparsity").value is None and found.get("sparsity").note
    assert found.get("sparsity_total").value == 0.5


def test_tied_weights_count_once():
    """A second name of the same numbers is stored again, and no parameter more."""
    tensors = {"a.weight": torch.tensor([[0.0, 1.0]]), "b.weight": torch.tensor([[0.0, 1.0]])}
    found = Report(tuple(count_findings(tensors, MaskSet({"a.weight": tensors["a.weight"] != 0}), again=("b.weight",))))
    assert (found.get("nonzeros").value, found.get("parameters").value) == (1, 2)
    assert found.get("sparsity_total").value == 0.5 and found.get("bytes_dense").value == 16


class Clock:
    """A clock that a module moves: its passes take exactly the milliseconds it is told."""

    now = 0.0

    def perf_counter(self) -> float:
        """What the timing code asks."""
        return self.now


class Takes(nn.Module):
    """Takes so many milliseconds, in turn."""

    def __init__(self, clock, *durations):
        super().__init__()
        self.clock, self.durations, self.calls = clock, durations, 0

    def forward(self, x):
        """Move the clock; only ever asked in eval mode without gradients."""
        assert not self.training and torch.is_inference_mode_enabled()
        self.clock.now += self.durations[self.calls % len(self.durations)] / 1000
        self.calls += 1
        return x


@pytest.fixture
def clock(monkeypatch):
    """Time moves only when a module says so."""
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def test_latency_is_the_median_and_warm_up_does_not_count(clock):
    """Two slow warm-up runs, then 1, 2, 3, 10 ms: median 2.5 ms, range from the four."""
    module = Takes(clock, 500, 400, 1, 2, 3, 10).train()
    [found] = latency(module, torch.zeros(3, 2), repeats=4, warmup=2)
    assert found.value == pytest.approx(2.5) and 1 <= found.low < 2.5 < found.high <= 10
    assert (found.n, found.unit, module.training) == (4, "ms", True) and found.note.startswith("batch of 1, 1 thread,")


def test_latency_ratio_pairs_neighbouring_runs(clock):
    """Both slow down together, 2/4, 20/40, 3/6, ...: the ratio is 1/2 every time although times spread tenfold."""
    slow = (2, 20, 3, 30, 2, 20, 3, 30)
    compressed, dense = Takes(clock, *slow), Takes(clock, *(2 * ms for ms in slow))
    now, before, ratio = latency_ratio(compressed, dense, torch.zeros(4, 2), batch=4, repeats=8, warmup=0)
    assert (now.of, before.of) == ("compressed", "dense") and before.value == pytest.approx(2 * now.value)
    assert ratio.name == "latency_ratio" and (ratio.value, ratio.low, ratio.high) == pytest.approx((0.5, 0.5, 0.5))


@pytest.mark.parametrize("asked", [{"batch": 0}, {"batch": 9}, {"repeats": 0}])
def test_timing_refuses_what_makes_no_sense(asked):
    """No inputs, more inputs than there are, no runs."""
    with pytest.raises(BadRequest):
        latency(nn.Identity(), torch.zeros(3, 2), **asked)


def test_a_real_module_takes_time():
    """A linear layer takes more than nothing and less than a second."""
    [found] = latency(nn.Linear(4, 2), torch.zeros(3, 4), repeats=6, warmup=1)
    assert 0 < found.low <= found.value <= found.high < 1000
