"""Membership inference: can an attacker tell forgotten samples from samples never seen, by what a model says about them?

Each attack gives a sample a score, higher = looks like a training sample; its AUC over forgotten against unseen samples is 0.5 where
nothing can be told. Well below 0.5 the forgotten samples stand out the other way (over-unlearning): that tells who was forgotten, too.

    loss         -l = log p_y
    confidence   max_c p_c                    needs no label
    entropy      sum_c p_c log p_c            needs no label
    margin       log p_y - log (1 - p_y)
    correct      answered rightly
    learned      logistic regression on all of them and the sorted log-probabilities, cross-validated (`learned_attack.py`)

Unseen samples are drawn so that classes are mixed as among the forgotten; otherwise an attack would only tell classes apart.

Source: Yeom et al. 2018 (arXiv 1709.01604), loss and correctness; Salem et al. 2019 (arXiv 1806.01246), confidence and entropy; Carlini
et al. 2022 (arXiv 2112.03570), the margin on the logit scale; Shokri et al. 2017 (arXiv 1610.05820), learned, there with shadow models.
Intervals: DeLong et al. 1988 (`ranking.py`); of the learned attack Nadeau and Bengio 2003.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import log_softmax

from sparsify_cli.maths.intervals import Estimate, Z
from sparsify_cli.maths.learned_attack import learned_auc
from sparsify_cli.maths.ranking import placements
from sparsify_cli.values.choices import choices, of_samples, options

LEAST = 10
"""Samples a side below which an attack is not measured."""
ATTACKS = {
    "loss": "the loss",
    "confidence": "the largest probability",
    "entropy": "the entropy of the answer",
    "margin": "the margin of the true class",
    "correct": "whether the answer is right",
    "learned": "a logistic regression on all of these, cross-validated",
}
"""Name -> what the attacker looks at."""


def signals(logits: Float[Tensor, "n outputs"], targets: Int[Tensor, "n *a"]) -> dict[str, Float[Tensor, " n"]]:
    """Scores of every attack but the learned one, float64; of attributes the sum."""
    rows, right = choices(logits.double(), targets)
    logs = log_softmax(rows, dim=1)
    chances, own = logs.exp(), logs.gather(1, right.unsqueeze(1)).squeeze(1)
    others = logs.scatter(1, right.unsqueeze(1), -torch.inf).logsumexp(dim=1)
    found = {
        "loss": own,
        "confidence": chances.max(dim=1).values,
        "entropy": (chances * logs).nan_to_num(0.0).sum(dim=1),
        "margin": own - others,
        "correct": (rows.argmax(dim=1) == right).double(),
    }
    return {name: of_samples(values, targets) for name, values in found.items()}


def attack_auc(scores: Float[Tensor, " n"], forgotten: Bool[Tensor, " n"]) -> Estimate:
    """AUC of forgotten above unseen, with its 95 % interval (DeLong's) inside [0, 1]; both sides must hold two samples or more."""
    above, below = (placements(scores, forgotten)[side] for side in (forgotten, ~forgotten))
    auc, half = float(above.mean()), Z * math.sqrt(float(above.var() / len(above) + below.var() / len(below)))
    return Estimate(auc, max(0.0, auc - half), min(1.0, auc + half))


def features(logits: Float[Tensor, "n outputs"], targets: Int[Tensor, "n *a"]) -> Float[Tensor, "n features"]:
    """What an attacker who learns sees of each sample: the ten largest log-probabilities, falling, and every other attack's score."""
    sides = options(logits.double(), attributes=targets.ndim == 2)
    logs = log_softmax(sides, dim=1).amax(dim=1).reshape(len(logits), -1) if targets.ndim == 2 else log_softmax(sides, dim=1)
    ordered = logs.sort(dim=1, descending=True).values[:, :10]
    return torch.cat([ordered, torch.stack(list(signals(logits, targets).values()), dim=1)], dim=1).clamp(-1e3, 1e3)


def attacks(
    logits: Float[Tensor, "n outputs"], targets: Int[Tensor, "n *a"], forgotten: Bool[Tensor, " n"], seed: int = 0
) -> dict[str, Estimate]:
    """AUC of every attack; empty where a side has too few samples."""
    if min(int(forgotten.sum()), int((~forgotten).sum())) < LEAST:
        return {}
    plain = {name: attack_auc(score, forgotten) for name, score in signals(logits, targets).items()}
    return {**plain, "learned": learned_auc(features(logits, targets), forgotten, seed)}


def among(estimate: Estimate, attacks: int) -> Estimate:
    """The estimate of the strongest of several attacks, its interval widened so that 95 % holds for all of them together (Bonferroni)."""
    wider = NormalDist().inv_cdf(1 - 0.025 / attacks) / Z
    low, high = (estimate.value + wider * (end - estimate.value) for end in (estimate.low, estimate.high))
    return Estimate(estimate.value, max(0.0, low), min(1.0, high))


def strongest(found: dict[str, Estimate]) -> str:
    """The attack whose interval is furthest from 0.5 on its nearer side; where all hold 0.5, the one furthest from it.

    A learned attack below 0.5 tells nothing: one that learned something on other samples lies above.
    """
    return max(found, key=lambda name: _evidence(name, found[name]))


def _evidence(name: str, one: Estimate) -> tuple[float, float]:
    if name == "learned":
        return one.low - 0.5, one.value - 0.5
    return max(one.low - 0.5, 0.5 - one.high), abs(one.value - 0.5)


def mixed_alike(targets: Int[Tensor, " n"], like: Int[Tensor, " m"], seed: int) -> tuple[Int[Tensor, " k"], Int[Tensor, " l"]]:
    """Samples of both kinds that can be compared: positions of unseen ones, mixed in classes as the forgotten, and of forgotten ones.

    As many unseen samples as possible are drawn. Classes that are scarce among them would cut all others down; those are left out, on both
    sides, as long as they hold at most a tenth of the forgotten samples, and classes that no unseen sample has always.

    Args:
        targets: classes of unseen samples.
        like: classes of the forgotten ones.
        seed: of the draw.
    """
    classes = int(torch.cat([targets, like]).max()) + 1 if len(targets) and len(like) else 0
    there, wanted = torch.bincount(targets, minlength=classes), torch.bincount(like, minlength=classes)
    kept = _kept_classes(there, wanted)
    if not kept:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    share = min(int(there[c]) / int(wanted[c]) for c in kept)
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    taken = [order[targets[order] == c][: int(int(wanted[c]) * share + 1e-9)] for c in kept]
    return torch.cat(taken).sort().values, torch.isin(like, torch.tensor(kept)).nonzero().reshape(-1)


def _kept_classes(there: Int[Tensor, " classes"], wanted: Int[Tensor, " classes"]) -> list[int]:
    """Classes that are compared, the scarcest of them last among those that may be left out."""
    shared = [c for c in range(len(wanted)) if wanted[c] and there[c]]
    kept = sorted(shared, key=lambda c: int(there[c]) / int(wanted[c]))
    spare = sum(int(wanted[c]) for c in shared) / 10
    while len(kept) > 1 and int(wanted[kept[0]]) <= spare and _gains(kept, there, wanted):
        spare -= int(wanted[kept.pop(0)])
    return sorted(kept)


def _gains(kept: list[int], there: Int[Tensor, " classes"], wanted: Int[Tensor, " classes"]) -> bool:
    """Whether without the scarcest class more unseen samples can be drawn."""
    with_it, without = (sum(int(wanted[c]) for c in some) * int(there[some[0]]) / int(wanted[some[0]]) for some in (kept, kept[1:]))
    return without > with_it
