"""Measure: a module's predictions, every number the shelf of metrics makes of them, sizes and times. Prints nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.metric import Evidence, Metric
from sparsify_cli.errors import BadData, BadRequest
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages.timing import latency, latency_ratio
from sparsify_cli.training.modes import evaluating
from sparsify_cli.values.arrays import as_taken_by, frugal_batch, handy_batch
from sparsify_cli.values.losses import require_answers
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.positions import Positions, number_positions, token_positions
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.small_floats import zeros_in

__all__ = ["count_findings", "latency", "latency_ratio", "measure_all", "predict", "train_marginals"]

OF_CHOICES = ("accuracy", "auc", "brier", "churn", "ece", "exemplars", "group-gap", "nll", "uncertainty", "worst-group")
SUMMARY = (*OF_CHOICES, "mae", "output-shift", "perplexity", "r2", "rmse", "token-agreement")
"""Metrics that every verb measures that makes a network; `report`, `compare`, `validate` and `recalibrate` measure all there are."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Batch-norm statistics: stored with a model, but no parameters."""


def predict(module: nn.Module, samples: Samples, *, batch: int | None = None) -> Predictions:
    """One pass in order, in eval mode, without gradients; every submodule's mode is restored.

    Args:
        module: maps inputs [b, ...] to logits [b, outputs]; runs where its parameters are.
        samples: what to predict.
        batch: samples a forward pass; None = as many as suit its device.

    Raises:
        BadData: no samples, inputs the model refuses, outputs that are not one row of logits a sample, or a label beyond them.
        Anomalous: outputs that are not finite.
    """
    if not len(samples):
        raise BadData("There are no samples to predict.", "The split is empty.", "Choose another split or other data.")
    with evaluating(module), torch.no_grad():
        logits = torch.cat([_forward(module, inputs) for inputs in samples.inputs.split(batch or handy_batch(module))])
    require_labels_fit(samples.targets, logits.shape[1])
    return Predictions(logits, samples.targets.cpu(), samples.ids, samples.groups, samples.classes)


def answers(module: nn.Module, samples: Samples) -> Positions:
    """As `predict`, of a model that answers with tokens or numbers.

    Raises:
        BadData, Anomalous: as there.
    """
    if not len(samples):
        raise BadData("There are no samples to predict.", "The split is empty.", "Choose another split or other data.")
    at = token_positions if samples.texts else number_positions
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluating(module), torch.no_grad():
        size = frugal_batch(module, _answer(module, samples.inputs[:1]))
        for inputs, targets in zip(samples.inputs.split(size), samples.targets.split(size), strict=True):
            out = torch.as_tensor(_answer(module, inputs)).float().cpu()
            require_answers(out, replace(samples, inputs=inputs, targets=targets, ids=samples.ids[: len(inputs)], groups={}))
            rows.append(at(out, targets))
    said, losses, counted = (torch.cat(column) for column in zip(*rows, strict=True))
    return Positions(samples.kind, said, samples.targets.flatten(1), losses, counted, samples.ids, samples.groups)


def share_right(module: nn.Module, samples: Samples) -> float:
    """One number by which networks are ranked, higher is better: the share of answers that are right; of numbers R^2."""
    if samples.chooses:
        return float(predict(module, samples).correct.double().mean())
    found = answers(module, samples)
    if samples.texts:
        return float(found.total(found.answers == found.targets).sum() / found.counts.sum())
    truth = found.targets.double()
    return float(1 - found.losses.sum() / (truth - truth.mean(dim=0)).square().sum().clamp_min(1e-12))


def require_choices(samples: Samples, verb: str) -> None:
    """Make sure that a verb that is about classes and attributes gets them.

    Raises:
        BadRequest: the data asks for tokens or numbers.
    """
    if not samples.chooses:
        what = f"`{verb}` is about classes and attributes, and the data asks for {samples.kind}."
        raise BadRequest(what, "Nothing was done.", "Use prune, finetune, train, validate, report, compare or export.")


def measure_all(evidence: Evidence, names: Sequence[str] = (), *, identities: Sequence[str] = ()) -> list[Finding]:
    """Findings of every metric on the shelf, with its default options, whose needs the evidence meets, in shelf order.

    Args:
        evidence: at least one compressed model.
        names: only these metrics.
        identities: attributes that tell groups apart as group columns do.

    Raises:
        BadRequest: no compressed model.
        UnknownName: an identity is no attribute.
        BadData: populations over different samples or with different outputs.
    """
    _require_comparable(evidence)
    shelf = Shelf("metrics")
    metrics: list[Metric] = [shelf.load(name)() for name in shelf.names() if not names or name in names]
    met = [metric for metric in metrics if evidence.kind in metric.kinds and metric.needs <= there(evidence)]
    met = [_about(metric, identities, evidence) for metric in met] if identities else met
    whole = [(metric, metric.measure(evidence)) for metric in met]
    asked = [metric for metric, found in whole if any(finding.scope == "all" for finding in found)]  # others have nothing to say of one
    each = [finding for metric in asked for finding in by_attribute(metric, evidence)]
    return [*(finding for _, found in whole for finding in found), *each]


def _about(metric: Metric, identities: Sequence[str], evidence: Evidence) -> Metric:
    """The metric, with the attributes that tell groups apart, where it asks for them."""
    if evidence.kind != "attributes":
        what = f"{identities[0]!r} is no attribute: this network chooses among classes."
        raise BadRequest(what, "--identity names one of several yes-or-no attributes.", "Give group columns instead.")
    return replace(metric, identities=tuple(identities)) if hasattr(metric, "identities") else metric  # type: ignore[type-var]


def there(evidence: Evidence) -> frozenset[str]:
    """Which needs of metrics the evidence meets."""
    dense = evidence.dense or evidence.dense_positions
    known = {"dense": dense, "train": evidence.train is not None, "attributes": evidence.kind == "attributes"}
    return frozenset(name for name, is_there in known.items() if is_there)


def by_attribute(metric: Metric, evidence: Evidence) -> list[Finding]:
    """Findings of a metric about each attribute alone; none for classes."""
    found = []
    alone = evidence.kind == "attributes" and metric.each_attribute and "attributes" not in metric.needs
    for position, name in enumerate(evidence.compressed[0].attributes if alone else ()):
        one = evidence.of_attribute(position)
        found += [replace(finding, scope=f"attribute:{name}") for finding in metric.measure(one) if finding.scope == "all"]
    return found


def train_marginals(samples: Samples) -> tuple[float, ...]:
    """Share of each label, in label order, zeros for labels that do not occur; or of the samples that have each attribute."""
    if not samples.chooses:
        return ()
    if samples.has_attributes:
        return tuple(samples.targets.double().mean(dim=0).tolist())
    counts = torch.bincount(samples.targets, minlength=samples.outputs).double()
    return tuple((counts / max(len(samples), 1)).tolist())


def count_findings(tensors: Mapping[str, Tensor], masks: MaskSet, *, again: Collection[str] = ()) -> list[Finding]:
    """Zeros among the masked weights, for each of them, and among all parameters; numbers left; bytes without compression.

    Args:
        tensors: every tensor of the model; batch-norm statistics are stored bytes but not parameters.
        masks: which weights are prunable and which of them stay; they are applied before counting.
        again: second names of tensors that are there already (tied weights), whose numbers count once.
    """
    own = {name: tensor for name, tensor in masks.apply(tensors).items() if name not in again}
    parameters = {n: t for n, t in own.items() if t.is_floating_point() and not n.endswith(BUFFERS)}
    prunable = {name: t for name, t in parameters.items() if name in masks}
    size, left = (sum(count(t) for t in parameters.values()) for count in (Tensor.numel, _nonzeros))
    stored = sum(t.numel() * t.element_size() for t in tensors.values())
    counts = (
        ("sparsity_total", _sparsity(parameters), "fraction", size, "Share of all parameters that are exactly zero."),
        ("nonzeros", float(left), "parameters", size, "Parameters that are not zero."),
        ("parameters", float(size), "parameters", size, "All numbers that training sets, zeros included."),
        ("bytes_dense", float(stored), "bytes", 0, "Size of all stored tensors when every number is written, zeros included."),
    )
    rest = [Finding(name=name, value=value, unit=unit, n=n, definition=text) for name, value, unit, n, text in counts]
    return [_layer_sparsity(prunable, "all"), *rest, *(_layer_sparsity({k: t}, f"layer:{k}") for k, t in prunable.items())]


def _answer(module: nn.Module, inputs: Tensor) -> Any:
    try:
        return module(as_taken_by(module, inputs))
    except RuntimeError as error:
        what, why = f"The model refuses inputs of shape {list(inputs.shape[1:])}.", f"{str(error).splitlines()[0].rstrip('.')}."
        raise BadData(what, why, "Check that --arch and --data belong together.") from error


def _forward(module: nn.Module, inputs: Tensor) -> Tensor:
    rows = _answer(module, inputs)
    shape = list(getattr(rows, "shape", ()))
    if len(shape) != 2 or shape[0] != len(inputs):
        what = f"For {len(inputs)} samples the model gave an output of shape {shape}."
        raise BadData(what, "Metrics need one row of logits a sample, [n, outputs].", "Check --arch.")
    return torch.as_tensor(rows).float().cpu()


def require_labels_fit(targets: Tensor, outputs: int) -> None:
    """Make sure that the network has an output for every label, or for every attribute.

    Raises:
        BadData: it has not.
    """
    if targets.ndim == 2 and targets.shape[1] != outputs:
        what = f"The data has {targets.shape[1]} attributes, the model {outputs} outputs."
        raise BadData(what, "Every attribute needs one.", "Check that --arch and --data belong together.")
    outside = targets[(targets < 0) | (targets >= outputs)] if targets.ndim == 1 else targets[:0]
    if len(outside):
        raise BadData(
            f"{len(outside)} of {len(targets)} samples have a label beyond the model's {outputs} outputs, first {int(outside[0])}.",
            "Labels are counted from 0 and each needs an output.",
            "Check that --arch and --data belong together.",
        )


def _require_comparable(evidence: Evidence) -> None:
    if not evidence.compressed and not evidence.positions:
        raise BadRequest("There are no predictions to measure.", "The evidence holds no compressed model.", "Predict with one first.")
    every: list[Predictions | Positions] = [*evidence.positions, *evidence.dense_positions, *evidence.compressed, *evidence.dense]
    first = every[0]
    for other in every[1:]:
        _require_same_samples(first, other)
        if isinstance(first, Predictions) and isinstance(other, Predictions) and first.logits.shape != other.logits.shape:
            what = f"Two models have {first.logits.shape[1]} and {other.logits.shape[1]} outputs."
            raise BadData(what, "They do not answer the same question.", "Compare models of the same classes.")


def _require_same_samples(first: Predictions | Positions, other: Predictions | Positions) -> None:
    if first.ids == other.ids and torch.equal(first.targets, other.targets):
        return
    differing = sum(a != b for a, b in zip(first.ids, other.ids, strict=False))
    raise BadData(
        f"Two models were not tested on the same samples: {len(first)} and {len(other)} samples, {differing} ids differ in place.",
        "A change can only be measured on the same samples, with the same labels, in the same order.",
        "Predict with both on the same split.",
    )


def _nonzeros(tensor: Tensor) -> int:
    return tensor.numel() - zeros_in(tensor)


def _sparsity(tensors: Mapping[str, Tensor]) -> float | None:
    size = sum(t.numel() for t in tensors.values())
    return 1 - sum(map(_nonzeros, tensors.values())) / size if size else None


def _layer_sparsity(tensors: Mapping[str, Tensor], scope: str) -> Finding:
    value, size = _sparsity(tensors), sum(t.numel() for t in tensors.values())
    note = "" if size else "no tensor is masked"
    text = "Share of the prunable (masked) weights that are exactly zero."
    return Finding(name="sparsity", value=value, unit="fraction", n=size, scope=scope, definition=text, note=note)
