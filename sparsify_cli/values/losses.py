"""How far an answer is from the truth, or from another network's, whatever the answer is.

    labels, attributes, tokens   cross-entropy and KL divergence of every choice (see `choices`), nats
    numbers                      mean squared error; distance relative to the other's mean square, no unit

Source: standard; the relative distance is that of block-wise reconstruction, Li et al. 2021 (BRECQ, arXiv 2102.05426), section 3.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float, Num
from torch import Tensor
from torch.nn import functional

from sparsify_cli.errors import BadData
from sparsify_cli.values.choices import choices, options
from sparsify_cli.values.samples import Kind, Samples

TINY = 1e-12


def loss(
    out: Float[Tensor, "n *outputs"],
    targets: Num[Tensor, "n *targets"],
    *,
    label_smoothing: float = 0.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Tensor, ""]:
    """Cross-entropy of every choice, or squared error of every number; differentiable.

    Args:
        out: what a network put out.
        targets: what is true.
        label_smoothing: share of probability spread over all choices; means nothing to numbers.
        reduction: over all choices or numbers.

    Raises:
        BadData: numbers of other shapes.
    """
    if targets.is_floating_point():
        return functional.mse_loss(shaped_as(out, targets), targets.to(out.dtype), reduction=reduction)
    rows, right = choices(out, targets)
    if not len(right):  # nothing but padding
        return out.sum() * 0.0
    return functional.cross_entropy(rows, right, label_smoothing=label_smoothing, reduction=reduction)


def divergence(
    ours: Float[Tensor, "n *outputs"],
    theirs: Float[Tensor, "n *outputs"],
    kind: Kind,
    *,
    temperature: float = 1.0,
    targets: Num[Tensor, "n *targets"] | None = None,
) -> Float[Tensor, ""]:
    """T^2 KL(theirs || ours) at temperature T, mean over choices; of numbers |ours - theirs|^2 / |theirs|^2.

    Args:
        ours: what the network put out that is to imitate.
        theirs: what it imitates.
        kind: what both are.
        temperature: T.
        targets: of texts: where none is right, nothing is compared; None = everywhere.
    """
    if kind == "tokens" and targets is not None:
        there = targets >= 0
        if not bool(there.any()):
            return ours.sum() * 0.0
        ours, theirs = ours[there], theirs[there]
    if kind == "numbers":
        return (ours - theirs).square().mean() / theirs.square().mean().clamp_min(TINY)
    logs = [functional.log_softmax(options(one / temperature, attributes=kind == "attributes"), dim=-1) for one in (ours, theirs)]
    return temperature**2 * functional.kl_div(logs[0], logs[1], log_target=True, reduction="batchmean")


def shaped_as(out: Float[Tensor, "n *outputs"], targets: Num[Tensor, "n *targets"]) -> Float[Tensor, "n *targets"]:
    """Outputs in the shape of the numbers they are compared with; sizes of 1 do not matter.

    Raises:
        BadData: there are more or fewer.
    """
    if [size for size in out.shape if size != 1] != [size for size in targets.shape if size != 1]:
        what = f"The network puts out numbers of shape {list(out.shape[1:])} a sample, the data has {list(targets.shape[1:])}."
        raise BadData(what, "Each needs one.", "Check that --arch and --data belong together.")
    return out.reshape(targets.shape)


def require_answers(out: Tensor, samples: Samples) -> None:
    """Make sure that what a network puts out for the first samples answers what their texts or numbers ask.

    Raises:
        BadData: it does not: no row of logits for each token, a token beyond them, or other numbers.
    """
    targets = samples.targets[: len(out)]
    if samples.kind == "numbers":
        shaped_as(out, targets)
        return
    fits = "Check that --arch and --data belong together."
    if out.ndim != 3 or out.shape[1] != targets.shape[1]:
        what = f"For texts of {targets.shape[1]} tokens the network puts out shape {list(out.shape[1:])} a sample."
        raise BadData(what, "A language model gives one row of logits for each token, [tokens, vocabulary].", fits)
    if samples.outputs > out.shape[2]:
        raise BadData(f"The data has the token {samples.outputs - 1}, the network {out.shape[2]} outputs.", "Each token needs one.", fits)
