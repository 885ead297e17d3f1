"""The promise of an architecture: a module from plain options."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import nn


class Architecture(ABC):
    """Builds a network. A frozen dataclass; its fields are the options `--arch-arg key=value` sets."""

    @abstractmethod
    def build(self) -> nn.Module:
        """A freshly initialised module, in train mode, initialised from torch's global generator."""
