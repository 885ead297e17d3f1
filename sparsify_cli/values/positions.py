"""Positions: one pass of one model over texts or numbers: an answer, the truth and a loss at each position of each sample.

Of a token only its likeliest guess and the loss are kept, not the logits of a whole vocabulary, so a long text costs little memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Num, Shaped
from torch import Tensor

from sparsify_cli.errors import Anomalous
from sparsify_cli.values.losses import shaped_as
from sparsify_cli.values.samples import Kind


@dataclass(frozen=True, eq=False)
class Positions:
    """What a model said at each of k positions of n samples; it does not know the model.

    Args:
        kind: tokens or numbers.
        answers: the likeliest token, or the number.
        targets: what is true.
        losses: -ln of the chance it gave the truth, nats, or the squared error; 0 where nothing is counted.
        counted: where there is a truth.
        ids: names of the samples, in row order.
        groups: column -> one value a sample.
    """

    kind: Kind
    answers: Num[Tensor, "n k"]
    targets: Num[Tensor, "n k"]
    losses: Float[Tensor, "n k"]
    counted: Bool[Tensor, "n k"]
    ids: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse losses that are not finite: every number made from them would be wrong."""
        bad = int((~torch.isfinite(self.losses)).any(dim=1).sum())
        if bad:
            raise Anomalous(f"The model's outputs are not finite for {bad} of {len(self.ids)} samples.", "No metric is defined on them.")

    def __len__(self) -> int:
        """How many samples."""
        return len(self.ids)

    def of(self, members: Bool[Tensor, " n"]) -> Positions:
        """The same about some samples."""
        rows = members.nonzero()[:, 0].tolist()
        ids, groups = tuple(self.ids[i] for i in rows), {name: tuple(values[i] for i in rows) for name, values in self.groups.items()}
        columns = (self.answers[members], self.targets[members], self.losses[members], self.counted[members])
        return Positions(self.kind, *columns, ids, groups)

    @property
    def counts(self) -> Float[Tensor, " n"]:
        """Positions that count, of each sample."""
        return self.counted.sum(dim=1).double()

    def total(self, values: Shaped[Tensor, "n k"]) -> Float[Tensor, " n"]:
        """The sum over the positions that count, of each sample."""
        return (values.double() * self.counted).sum(dim=1)


def token_positions(
    logits: Float[Tensor, "n t vocabulary"], targets: Num[Tensor, "n t"]
) -> tuple[Num[Tensor, "n t"], Float[Tensor, "n t"], Bool[Tensor, "n t"]]:
    """Likeliest tokens, losses in nats, and which count.

    Args:
        logits: at each token of a batch.
        targets: the tokens that are right there; below 0 none is.
    """
    counted = targets >= 0
    right = targets.clamp_min(0).unsqueeze(-1)
    wide = logits.double()
    losses = wide.logsumexp(dim=-1) - wide.gather(-1, right)[..., 0]
    return logits.argmax(dim=-1), torch.where(counted, losses, 0.0), counted


def number_positions(
    out: Float[Tensor, "n *k"], targets: Float[Tensor, "n *k"]
) -> tuple[Num[Tensor, "n k"], Float[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """Numbers, squared errors, and that all count.

    Args:
        out: what a network put out for a batch.
        targets: the numbers that are right.
    """
    said, true = shaped_as(out, targets).flatten(1), targets.flatten(1)
    return said, (said.double() - true.double()).square(), torch.ones_like(said, dtype=torch.bool)
