"""Field types of recipes: what a person may write, read strictly and written back the same.

A recipe field is declared once, `name: Annotated[type, Option("help")] = default`; the command-line flag, the recipe
key, the help text and the JSON schema all come from that line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.allocation import parse_allocation
from sparsify_cli.recipes.budget import Budget, parse_milliseconds, parse_size
from sparsify_cli.recipes.duration import Duration, Interval
from sparsify_cli.recipes.duration import decimal as decimal
from sparsify_cli.recipes.pattern import Pattern


@dataclass(frozen=True)
class Option:
    """How a recipe field appears on the command line.

    Args:
        help: one sentence, with the unit.
        positional: an argument instead of a flag.
        metavar: what stands for the value in help texts.
        shelf: package of the shelf whose names are the choices.
        also: a choice that is no file of the shelf.
    """

    help: str
    positional: bool = False
    metavar: str = ""
    shelf: str = ""
    also: str = ""


@dataclass(frozen=True)
class Choice:
    """A strategy by name with the options that differ from its defaults."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any) -> Choice:
        """Read `gmp` or `{name: gmp, every: 50it}`.

        Raises:
            BadRequest: neither a name nor a mapping with one.
        """
        if isinstance(value, Choice):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            return cls(value["name"], {str(k): v for k, v in value.items() if k != "name"})
        raise BadRequest(f"{value!r} names no strategy.", "", "Write a name, or a mapping with the key `name` and its options.")

    def to_plain(self) -> str | dict[str, Any]:
        """What `parse` reads back."""
        return {"name": self.name, **self.options} if self.options else self.name


LONGEST = 999
"""Digits before or after the point beyond which a number is not expanded; far more than any network has weights."""


def parse_sparsity(value: Any) -> Fraction:
    """Read a sparsity exactly: a fraction of zeros in [0, 1] written as a decimal, never percent.

    Raises:
        BadRequest: not a number, or outside [0, 1].
    """
    if isinstance(value, Fraction):
        return value
    try:
        written = Decimal(str(value))
        number = Fraction(written) if abs(written.adjusted()) <= LONGEST else Fraction(-1)  # expanding 1e-999999999 would take forever
    except (InvalidOperation, ValueError, OverflowError) as error:
        raise BadRequest(f"{value!r} is not a number.", "", "Write a fraction of zeros such as 0.9.") from error
    if not 0 <= number <= 1:
        hint = f"For {float(number):g}% write {float(number) / 100:g}." if 1 < number <= 100 else "0 keeps every weight, 1 keeps none."
        raise BadRequest(f"{value} is outside [0, 1].", "Sparsity is the fraction of zeros.", hint)
    return number


def _collected(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`parse`, with our errors as ValueErrors so that pydantic shows all of a recipe's problems together."""

    def read(value: Any) -> Any:
        try:
            return parse(value)
        except BadRequest as error:
            raise ValueError(str(error)) from error

    return read


def _split(value: Any) -> Any:
    parts = value if isinstance(value, list | tuple) else [value]
    return tuple(piece for part in parts for piece in (part.split(",") if isinstance(part, str) else [part]))


def _as_texts(value: Any) -> Any:
    if value is None:  # an empty `skip:` in a recipe
        return ()
    return tuple(str(v) for v in value) if isinstance(value, list | tuple) else (str(value),)


def _falling(levels: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    return tuple(sorted(set(levels), reverse=True))


_text_schema = WithJsonSchema({"type": "string"})
Sparsity = Annotated[
    Fraction,
    PlainValidator(_collected(parse_sparsity)),
    PlainSerializer(decimal),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),
]
PatternText = Annotated[Pattern, PlainValidator(_collected(Pattern.parse)), PlainSerializer(str), _text_schema]
IntervalText = Annotated[Interval, PlainValidator(_collected(Interval.parse)), PlainSerializer(str), _text_schema]
DurationText = Annotated[Duration, PlainValidator(_collected(Duration.parse)), PlainSerializer(str), _text_schema]
Strategy = Annotated[
    Choice,
    PlainValidator(_collected(Choice.parse)),
    PlainSerializer(Choice.to_plain),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "required": ["name"]}]}),
]
Texts = Annotated[tuple[str, ...], BeforeValidator(_as_texts)]
Allocation = Annotated[str, BeforeValidator(_collected(parse_allocation))]
SizeText = Annotated[int, BeforeValidator(_collected(parse_size))]
MillisecondsText = Annotated[float, BeforeValidator(_collected(parse_milliseconds))]
BudgetText = Annotated[Budget, BeforeValidator(_collected(Budget.parse)), PlainSerializer(str)]
Shares = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], BeforeValidator(_split)]
Levels = Annotated[
    tuple[Sparsity, ...],
    BeforeValidator(_split),
    AfterValidator(_falling),
    PlainSerializer(lambda levels: [decimal(level) for level in levels]),
]
