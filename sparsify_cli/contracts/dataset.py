"""The promise of a dataset: three disjoint splits with ids and groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from sparsify_cli.values.samples import Samples

Split = Literal["train", "validation", "test"]


class Dataset(ABC):
    """Loads samples. A frozen dataclass; its fields are the options `--data-arg key=value` sets.

    A dataset that takes a location has a field `path: str`; `--data idx:FOLDER` fills it.
    """

    @abstractmethod
    def load(self, split: Split) -> Samples:
        """One split; the same split is the same samples in the same order at every call, and splits are disjoint.

        Raises:
            MissingFile: the location is not there.
            BadData: what is there does not have the promised shape.
        """
