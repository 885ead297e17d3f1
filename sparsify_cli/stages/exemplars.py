"""Samples to look at: those whose answer compression changed; of texts and numbers those whose loss it raised most.

Each with its image where it is one, else with what the network was given, in figures; a text with the place that lost most: the words
before it, the one that is right there, and what both networks say.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sparsify_cli.contracts.metric import Evidence
from sparsify_cli.maths.exemplars import exemplar_ids
from sparsify_cli.maths.scopes import class_names
from sparsify_cli.pages.view import Exemplar
from sparsify_cli.pages.wording import significant
from sparsify_cli.values.positions import Positions
from sparsify_cli.values.samples import Samples
from sparsify_cli.values.vocabulary import spelled

SHOWN = 24
SHOWN_PIXELS = 256 * 256
SHOWN_NUMBERS = 8
"""Of what is no image."""
SHOWN_TOKENS, SHOWN_LETTERS = 24, 90
"""Of a text, before the place that lost most."""


def exemplars(seen: Evidence, samples: Samples) -> tuple[Exemplar, ...]:
    """The most striking samples, first the most striking; none without a dense network."""
    if seen.dense_positions:
        return _hurt(seen.dense_positions[0], seen.positions[0], samples)
    return _changed(seen, samples) if seen.dense else ()


def _changed(seen: Evidence, samples: Samples) -> tuple[Exemplar, ...]:
    found = exemplar_ids(seen.dense, seen.compressed)[:SHOWN]
    where = {name: row // max(1, len(seen.dense[0].attributes)) for row, name in enumerate(seen.dense[0].every_answer().ids)}
    names = ("no", "yes") if samples.has_attributes else class_names(seen.dense[0])
    return tuple(
        Exemplar(
            id=one.id, image=_image(samples, where[one.id]), true=names[one.true], dense=names[one.dense], compressed=names[one.compressed],
            dense_confidence=one.dense_confidence, compressed_confidence=one.compressed_confidence,
            groups=_groups(samples, where[one.id]), row=_row(samples, where[one.id]),
        )
        for one in found
    )  # fmt: skip


def _hurt(dense: Positions, now: Positions, samples: Samples) -> tuple[Exemplar, ...]:
    """Samples whose mean loss rose, most first."""
    before, after = (one.total(one.losses) / one.counts.clamp_min(1) for one in (dense, now))
    order = (after - before).argsort(descending=True, stable=True)[:SHOWN].tolist()
    if now.kind == "tokens":
        return tuple(_text(samples, dense, now, i, (float(before[i]), float(after[i]))) for i in order if after[i] > before[i])
    return tuple(
        Exemplar(
            id=samples.ids[i], image=_image(samples, i), true=_true(now, i), dense=_said(dense, i, float(before[i])),
            compressed=_said(now, i, float(after[i])), groups=_groups(samples, i), row=_row(samples, i),
        )
        for i in order if after[i] > before[i]
    )  # fmt: skip


def _text(samples: Samples, dense: Positions, now: Positions, i: int, losses: tuple[float, float]) -> Exemplar:
    """A text, and the place at which it lost most."""
    at = int((now.losses[i] - dense.losses[i]).where(now.counted[i], float("-inf")).argmax())
    said = [
        f"{significant(loss)} nats a token, here “{_word(samples, one.answers[i, at])}”"
        for one, loss in zip((dense, now), losses, strict=True)
    ]
    return Exemplar(
        id=samples.ids[i], image=None, true=f"{int(now.counts[i])} tokens", dense=said[0], compressed=said[1],
        groups=_groups(samples, i), row=f"{_before(samples, i, at)} [{_word(samples, now.targets[i, at])}]",
    )  # fmt: skip


def _before(samples: Samples, i: int, at: int) -> str:
    """What the network was given up to a place."""
    given = samples.inputs[i].flatten()
    tokens = [int(token) for token in given[max(0, at + 1 - SHOWN_TOKENS) : at + 1]]
    text = spelled(tokens, samples.classes)
    cut = at + 1 > len(tokens) or len(text) > SHOWN_LETTERS
    return ("… " if cut else "") + " ".join(text[-SHOWN_LETTERS:].split())


def _word(samples: Samples, token: Tensor) -> str:
    word = spelled([int(token)], samples.classes)
    return word.strip() or repr(word)


def _true(one: Positions, i: int) -> str:
    """The number that is right, where it is one; how many there are otherwise."""
    return significant(float(one.targets[i, 0])) if one.targets.shape[1] == 1 else f"{one.targets.shape[1]:,} numbers"


def _said(one: Positions, i: int, loss: float) -> str:
    return significant(float(one.answers[i, 0])) if one.answers.shape[1] == 1 else f"error {significant(loss**0.5)}"


def _groups(samples: Samples, i: int) -> dict[str, str]:
    return {column: values[i] for column, values in samples.groups.items()}


def _image(samples: Samples, position: int) -> Any:
    pixels = samples.inputs[position]
    return pixels.numpy() if _is_image(pixels) else None


def _row(samples: Samples, position: int) -> str:
    """The first figures of what is no image."""
    given = samples.inputs[position]
    if _is_image(given):
        return ""
    figures = [str(int(x)) if not given.is_floating_point() else significant(float(x)) for x in given.flatten()[:SHOWN_NUMBERS]]
    rest = given.numel() - len(figures)
    return ", ".join(figures) + (f", … {rest:,} more" if rest > 0 else "")


def _is_image(given: Tensor) -> bool:
    return given.ndim == 3 and given.shape[0] in (1, 3) and given[0].numel() <= SHOWN_PIXELS
