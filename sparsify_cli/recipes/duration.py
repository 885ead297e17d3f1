"""Durations: `30ep`, `500it`, `0.75run` -> optimizer steps.

Phases are written in the unit a person thinks in and counted in optimizer steps, rounded half to even.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, Inexact, localcontext
from fractions import Fraction

from sparsify_cli.errors import BadRequest

UNITS = {"ep": "epochs", "it": "optimizer steps", "run": "of the whole run"}


@dataclass(frozen=True)
class Duration:
    """A length of training: a number and its unit (`ep`, `it` or `run`)."""

    value: Fraction
    unit: str

    @classmethod
    def parse(cls, text: str | Duration) -> Duration:
        """Read `30ep`, `500it` or `0.75run`.

        Raises:
            BadRequest: the text has no number or no known unit.
        """
        if isinstance(text, Duration):
            return text
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ep|it|run)", str(text))
        if match is None:
            raise BadRequest(f"{text!r} is not a duration.", "", "Write epochs, steps or a share of the run: 30ep, 500it, 0.75run.")
        return cls(Fraction(match[1]), match[2])

    def steps(self, *, per_epoch: int, total: int) -> int:
        """Optimizer steps in this duration.

        Args:
            per_epoch: optimizer steps of one epoch.
            total: optimizer steps of the whole run.
        """
        unit = {"ep": per_epoch, "it": 1, "run": total}[self.unit]
        return round(self.value * unit)

    def __str__(self) -> str:
        """The text `parse` reads back."""
        return f"{decimal(self.value)}{self.unit}"


@dataclass(frozen=True)
class Interval:
    """How often something is done: after so many steps, or so many minutes of the clock.

    Args:
        duration: in steps; None where minutes are meant.
        minutes: None where steps are.
    """

    duration: Duration | None = None
    minutes: float | None = None

    @classmethod
    def parse(cls, text: str | Interval) -> Interval:
        """Read `1ep`, `200it` or `5min`.

        Raises:
            BadRequest: the text has no number above 0 or no known unit.
        """
        if isinstance(text, Interval):
            return text
        match = re.fullmatch(r"(\d+(?:\.\d+)?)min", str(text))
        found = cls(minutes=float(match[1])) if match else cls(duration=Duration.parse(text))
        if not (found.minutes or (found.duration and found.duration.value)):
            raise BadRequest(f"{text!r} is no interval.", "", "Write a number above 0: 1ep, 200it or 5min.")
        return found

    def __str__(self) -> str:
        """The text `parse` reads back."""
        return f"{self.minutes:g}min" if self.duration is None else str(self.duration)


def decimal(value: Fraction) -> str:
    """A fraction as the decimal a person wrote, digit for digit; twelve digits where it has no end (1/3)."""
    with localcontext(prec=2000) as context:
        quotient = Decimal(value.numerator) / Decimal(value.denominator)
        exact = not context.flags[Inexact]
        return f"{quotient.normalize():f}" if exact else f"{float(value):.12g}"
