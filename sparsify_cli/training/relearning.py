"""Relearn time: how many passes over the forgotten samples until a network pays no more for them than it did before it forgot them.

A network that never saw them needs as many as its learning takes; one that only hides them is back at once. So the number means little
alone and much beside that of a network trained anew without the samples. Running statistics of batch norm stay as they are.

Steps are Adam's: their length does not depend on that of the gradient, which is nearly nought at the small losses that samples are learned
to. With plain SGD at a rate of 0.001, a step a pass, 50 passes were too few for any of 48 samples of digits, forgotten or never seen.

Source: Golatkar, Achille, Soatto 2020 (arXiv 1911.04933), "relearn time"; Kingma and Ba 2015 (arXiv 1412.6980), Adam.
Rate and passes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from sparsify_cli.training.erasing import Student, copied, cross_entropy_of
from sparsify_cli.training.forgetting import outcomes
from sparsify_cli.training.modes import evaluating
from sparsify_cli.values.choices import of_samples
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples

SHOWN = 256
"""Forgotten samples that are shown again at most, drawn at random: all of a class would cost more than training anew."""
SEEN = 12_800
"""Samples shown, repeated ones counted, after which it counts as not relearned."""
MOST = 200
"""Passes after which it counts as not relearned, however few the samples."""


@dataclass(frozen=True)
class Relearning:
    """How the samples are shown again: Adam without decay, the same for every network that is compared.

    Args:
        lr: learning rate.
        batch_size: samples of a step.
        seed: of the order.
    """

    lr: float = 3e-4
    batch_size: int = 32
    seed: int = 0

    def passes(self, model: nn.Module, masks: MaskSet, samples: Samples, target: float) -> int | None:
        """Passes until the mean loss is at most `target`, 0 when it is already; None when `most_passes` are not enough.

        Args:
            model: left as it was.
            masks: pruned weights stay zero.
            samples: the forgotten ones.
            target: mean cross-entropy to come back to, nats.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            student = Student.descending(copied(model), masks, lr=self.lr, batch_size=self.batch_size, seed=self.seed)
            student.run.optimizer = torch.optim.Adam(student.run.optimizer.param_groups[0]["params"], self.lr)
            most = most_passes(len(samples))
            for done in range(most + 1):
                if mean_loss(student.model, samples) <= target:
                    return done
                if done < most:
                    student.epoch(samples, cross_entropy_of, mode="eval")
        return None


def most_passes(n: int) -> int:
    """Passes over n samples that are tried."""
    return max(1, min(MOST, SEEN // max(n, 1)))


def mean_loss(model: nn.Module, samples: Samples) -> float:
    """Mean cross-entropy in eval mode, nats."""
    with evaluating(model):
        return float(of_samples(outcomes(model, samples).losses, samples.targets).mean())
