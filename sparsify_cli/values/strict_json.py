"""JSON from a stranger: every name once, real numbers, real text, bounded; what is wrong is said in a few words."""

from __future__ import annotations

import json
from typing import Any


class NotJson(ValueError):
    """What contradicts what, as the end of a sentence."""


def strict_json(raw: bytes) -> Any:
    """The value of a JSON text.

    Args:
        raw: UTF-8.

    Raises:
        NotJson: not UTF-8, not JSON, a name twice in one object, NaN or Infinity, half of a surrogate pair, nested too deeply.
    """
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_each_once, parse_constant=_no_number)
    except NotJson:
        raise
    except UnicodeDecodeError as error:
        raise NotJson(f"it is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise NotJson(f"it is not JSON at character {error.pos} ({error.msg})") from error
    except RecursionError as error:
        raise NotJson("it is nested too deeply") from error
    except ValueError as error:
        raise NotJson("it holds a number of thousands of digits") from error


def shown(name: object) -> str:
    """A name from a file as a message shows it: quoted, and cut when it is very long."""
    text = repr(name)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        for text in (name, value):
            if isinstance(text, str) and not _is_text(text):
                raise NotJson(f"{shown(text)} holds half of a surrogate pair")
        if name in table:
            raise NotJson(f"it holds {shown(name)} twice")
        table[name] = value
    return table


def _is_text(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _no_number(word: str) -> float:
    raise NotJson(f"it holds {word}, which is no number")
