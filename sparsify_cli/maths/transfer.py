"""How well sparse networks transfer: their error on several tasks beside the dense network's.

    err  = 1 - accuracy, accuracies of several seeds averaged first
    r    = (err_sparse - err_dense) / err_dense            for each task; negative where the sparse network is better
    told   mean of r over tasks, and its standard error s / sqrt(tasks)

Source: Iofinova, Peste, Kurtz, Alistarh 2022 (arXiv 2111.13445), section 4; the published tables of accuracies give their figures.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Transferred:
    """One network over several tasks, beside the dense one.

    Args:
        changes: task -> relative change of error; negative is better.
        accuracies: task -> mean accuracy, fraction.
    """

    changes: Mapping[str, float]
    accuracies: Mapping[str, float]

    @property
    def mean(self) -> float:
        """Mean relative change of error."""
        return statistics.fmean(self.changes.values())

    @property
    def error(self) -> float:
        """Standard error of the mean over tasks; NaN for a single one."""
        if len(self.changes) < 2:
            return math.nan
        return statistics.stdev(self.changes.values()) / math.sqrt(len(self.changes))

    @property
    def better(self) -> int:
        """On how many tasks it is better than the dense network."""
        return sum(change < 0 for change in self.changes.values())

    @property
    def accuracy(self) -> float:
        """Mean accuracy over tasks."""
        return statistics.fmean(self.accuracies.values())


def transferred(dense: Mapping[str, float], sparse: Mapping[str, float]) -> Transferred:
    """Relative changes of error on the tasks both were measured on.

    Args:
        dense: task -> mean accuracy of the dense network, below 1.
        sparse: task -> mean accuracy.
    """
    common = [task for task in sparse if task in dense]
    changes = {task: (dense[task] - sparse[task]) / (1 - dense[task]) for task in common}
    return Transferred(changes, {task: sparse[task] for task in common})
