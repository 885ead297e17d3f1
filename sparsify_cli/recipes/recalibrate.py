"""The recipe of `recalibrate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from sparsify_cli.recipes.option import Option
from sparsify_cli.recipes.shared import DataFields, ModelFields, WeightsFields


@dataclass(frozen=True, kw_only=True)
class RecalibrateRecipe(ModelFields, DataFields, WeightsFields):
    """Move a network's answers so that its confidence, or its share of positive answers, is right on validation data."""

    verb: ClassVar[str] = "recalibrate"
    method: Annotated[
        Literal["temperature", "thresholds"],
        Option("temperature = how sure it is, no answer changes; thresholds = of yes-or-no answers as many yes as are true."),
    ] = "temperature"
