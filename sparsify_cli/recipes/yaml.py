"""YAML 1.2 scalars: `2:4` is the text 2:4, `1e-3` is a number, `no` is a word, `010` is ten.

PyYAML follows YAML 1.1, where `2:4` is the integer 124 (base 60) and `1e-3` is a text. Duplicate keys are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from sparsify_cli.errors import BadRequest

_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN"),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 and no duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own attribute)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = {str(key) for key in keys if keys.count(key) > 1}
        if repeated:
            raise BadRequest(f"The key {', '.join(sorted(repeated))} appears twice{node.start_mark}.", "Only one of them would count.")
        return super().construct_mapping(node, deep)


def _whole(loader: yaml.SafeLoader, node: Any) -> int:
    return int(loader.construct_scalar(node))


StrictLoader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _SCALARS.items():
    StrictLoader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), [*_first, ""])
StrictLoader.add_constructor("tag:yaml.org,2002:int", _whole)


class CarefulDumper(yaml.SafeDumper):
    """PyYAML's safe dumper that quotes texts which either version of YAML would read as something else, such as 1e-3 and 09."""

    yaml_implicit_resolvers = {first: list(rules) for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()}  # noqa: RUF012


for _tag, (_pattern, _first) in _SCALARS.items():
    CarefulDumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_first))


def read_yaml(text: str, *, name: str = "the recipe") -> Any:
    """The value written in `text`.

    Raises:
        BadRequest: it is not YAML; says where.
    """
    try:
        return yaml.load(text, StrictLoader)  # noqa: S506 (a safe loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a tag such as !!int before a word
        raise BadRequest(f"{name} is not valid YAML: {' '.join(str(error).split())}.") from error


def write_yaml(value: Mapping[str, Any]) -> str:
    """`value` as YAML that YAML 1.1 and 1.2 readers understand alike."""
    return yaml.dump(dict(value), Dumper=CarefulDumper, sort_keys=False, allow_unicode=True)
