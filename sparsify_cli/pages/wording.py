"""Numbers as words: how a value, an interval, a change and a verdict about it are written, everywhere the same.

Fractions become percentages with one decimal, their changes become points, bytes become kB or MB (1 kB = 1000 bytes),
times keep three significant digits. A number that rounds to a limit it has not reached says so (`>99.9 %`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from sparsify_cli.pages.view import missing
from sparsify_cli.values.report import Finding

NOTHING = "not enough data"
UNMEASURED = "not measured"
CONTINUOUS = frozenset({"ms", "nats"})
MINUS = "\u2212"
Judgement = Literal["better", "worse", "higher", "lower", "noise", "same", "unsure", "unknown"]
SAID: dict[Judgement, str] = {
    "better": "better",
    "worse": "worse",
    "higher": "higher",
    "lower": "lower",
    "noise": "within noise",
    "same": "unchanged",
    "unsure": "no interval, so this may be noise",
    "unknown": NOTHING,
}
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """Text that any document can carry: control characters, bidirectional overrides and lone surrogates become U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def shorten(text: str, length: int = 24) -> str:
    """At most `length` characters, the middle cut out: both ends of a layer name or a path matter."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}\u2026{text[-tail:]}"


def layer_name(name: str, length: int = 22) -> str:
    """A layer's name without `.weight`, whole parts cut off in front: the end tells layers apart."""
    text = name.removesuffix(".weight")
    if len(text) <= length:
        return text
    parts = text.split(".")
    while len(parts) > 1 and len(".".join(parts)) >= length:
        parts = parts[1:]
    return shorten(f"\u2026{'.'.join(parts)}", length)


def percent(fraction: float) -> str:
    """0.9123 -> `91.2 %`; 0.99996 -> `>99.9 %`."""
    if 0.9995 <= fraction < 1:
        return ">99.9 %"
    if 0 < fraction < 0.0005:
        return "<0.1 %"
    return f"{_plain(100 * fraction, 1)} %"


def round_percent(fraction: float) -> str:
    """As `percent`, without a decimal that is zero: 0.9 -> `90 %`."""
    return percent(fraction).replace(".0 %", " %")


def listed(words: Sequence[str]) -> str:
    """`a`; `a and b`; `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def signed(value: float, digits: int = 1) -> str:
    """-0.61 -> `−0.6`, 0.5 -> `+0.5`; what rounds to zero has no sign."""
    text = _plain(value, digits)
    return f"+{text}" if value > 0 and float(f"{value:.{digits}f}") else text


def points(fraction: float) -> str:
    """A change of a fraction in percentage points: -0.006 -> `−0.6 points`."""
    return f"{signed(100 * fraction)} points"


def count(value: float) -> str:
    """12345 -> `12,345`."""
    return f"{round(value):,}".replace("-", MINUS)


def size(value: float) -> str:
    """Bytes for people: 999 -> `999 bytes`, 23104 -> `23.1 kB`, 1.5e6 -> `1.50 MB`."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= step:
            return f"{significant(value / step)} {unit}"
    return f"{count(value)} bytes"


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits without an exponent where that is readable: 0.41234 -> `0.412`, 1234.5 -> `1,234`."""
    if not value:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -5 <= power <= 8:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    return _plain(value, max(0, digits - 1 - power))


def ratio(value: float) -> str:
    """6.58 -> `6.6×`."""
    return f"{significant(value, 2 if value < 100 else 3)}\u00d7"


def _plain(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return text.replace("-", MINUS if text.strip("-0.,") else "")


def amount(value: float, unit: str, *, change: bool = False) -> str:
    """One number with its unit; a change carries its sign, and a change of a fraction is in points."""
    if change and unit == "fraction":
        return points(value)
    sign, digits = ("+" if value > 0 else "", 2) if change else ("", 3)
    return sign + _measured(value, unit, digits)


def _measured(value: float, unit: str, digits: int) -> str:
    if unit == "fraction":
        return percent(value)
    if unit == "bytes":
        return size(value)
    whole = unit not in CONTINUOUS and value == round(value) and abs(value) < 1e15
    if value == 1 and unit.endswith("s") and unit != "ms":
        unit = unit.removesuffix("s")
    return f"{count(value) if whole else significant(value, digits)} {unit}".strip()


def tie(text: str) -> str:
    """No line break between a number and its unit, nor inside an interval."""
    text = text.replace(" \u2026 ", "\u00a0\u2026\u00a0")
    return re.sub(r"(?<=\d) (?=(?:%|points|[kMG]B|ms|nats|samples|bytes)(?!\w))", "\u00a0", text)


def spoken(finding: Finding | None) -> str:
    """The value of a finding in words, or why there is none."""
    if finding is None:
        return UNMEASURED
    if missing(finding) or finding.value is None:
        return NOTHING
    return amount(finding.value, finding.unit, change=finding.of == "change")


def interval(finding: Finding | None) -> str:
    """The 95 % interval, `−1.7 … +0.5`; empty when there is none. Without the unit where the value beside it has it."""
    if finding is None or finding.low is None or finding.high is None or not math.isfinite(finding.low + finding.high):
        return ""
    if finding.unit not in {"fraction", "bytes"}:
        return _bounds(finding.low, finding.high, change=finding.of == "change")
    if finding.unit == "fraction" and finding.of == "change":
        return _points(finding.low, finding.high)
    low, high = (amount(v, finding.unit, change=finding.of == "change") for v in (finding.low, finding.high))
    for unit in (" points", " %"):
        if low.endswith(unit) and high.endswith(unit):
            return f"{low.removesuffix(unit)} \u2026 {high.removesuffix(unit)}"
    return f"{low} \u2026 {high}"


def _points(low: float, high: float) -> str:
    """Both ends of a change in points, with as many decimals, up to three, as an end needs that is not zero."""
    ends = [100 * low, 100 * high]
    digits = next((d for d in (1, 2, 3) if all(not end or float(f"{end:.{d}f}") for end in ends)), 3)
    return " \u2026 ".join(signed(end, digits) for end in ends)


def _bounds(low: float, high: float, *, change: bool) -> str:
    """Both ends with the same number of decimals: those that the wider end needs for its significant digits."""
    widest = significant(max(abs(low), abs(high)), 2 if change else 3)
    if "e" in widest:
        return f"{significant(low)} \u2026 {significant(high)}"
    decimals = len(widest.partition(".")[2])
    write = signed if change else _plain
    return f"{write(low, decimals)} \u2026 {write(high, decimals)}"


def judge(change: Finding | None) -> Judgement:
    """Whether a change is good news: noise when its interval holds zero, unsure when it has no interval."""
    if missing(change) or change is None or change.value is None:
        return "unknown"
    if change.low is None or change.high is None or not math.isfinite(change.low) or not math.isfinite(change.high):
        return "unsure" if change.value else "same"
    if change.low <= 0 <= change.high:
        return "noise" if change.value or change.low or change.high else "same"
    if change.better == "neither":
        return "higher" if change.value > 0 else "lower"
    return "better" if (change.value > 0) == (change.better == "higher") else "worse"


def said(change: Finding | None) -> str:
    """The judgement in words."""
    return SAID[judge(change)]


def moved(change: Finding) -> str:
    """A change as a verb: `fell by 0.6 points`, `rose by 0.3 points`, `rose by 0.12`, `is unchanged`."""
    value = change.value or 0.0
    if change.unit != "fraction":
        return f"{'fell' if value < 0 else 'rose'} by {significant(abs(value), 2)} {change.unit}".rstrip() if value else "is unchanged"
    size_of = f"{abs(100 * value):.1f}"
    if size_of == "0.0":
        return f"{'fell' if value < 0 else 'rose'} by less than 0.1 points" if value else "is unchanged"
    return f"{'fell' if value < 0 else 'rose'} by {size_of} points"
