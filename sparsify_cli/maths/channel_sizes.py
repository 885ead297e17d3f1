"""Sizes: where a network's code asks how many channels a tensor has, and whether a layer finds channels where they are.

Source: none; see channel_groups.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import fx

from sparsify_cli.maths.traced import given, name_of, shape_of

SHAPING = frozenset({"view", "reshape", "expand", "eq", "ne"})
"""What may be given a size of a tensor that has fewer channels: it makes one of that size."""


def sizes_of(node: fx.Node, dim: int) -> Iterator[fx.Node]:
    """Nodes that hold the size of an axis of a node's tensor."""
    rank = len(shape_of(node))
    for user in node.users:
        name = name_of(user)
        if name == "size" and given(user, 1, "dim", None) is not None:
            if int(given(user, 1, "dim", None)) % rank == dim:
                yield user
        elif name == "size" or (name == "getattr" and user.args[1] == "shape"):
            yield from (one for one in user.users if name_of(one) == "getitem" and _is_at(one, dim, rank))


def _is_at(picked: fx.Node, dim: int, rank: int) -> bool:
    at = picked.args[1]
    return isinstance(at, int) and at % rank == dim


def counts(size: fx.Node) -> bool:
    """Whether a size is used as a number, and not to give a tensor its shape."""
    return any(name_of(user) not in SHAPING for user in size.users)


def takes_batches(kind: str, node: fx.Node, *, also: int = 0) -> bool:
    """Whether axis 1 holds channels for a layer on 1, 2 or 3 axes of space: [n, channels, ...], no less.

    Args:
        kind: its name, such as `MaxPool2d` or `avg_pool1d`; one without a number takes any.
        node: the call.
        also: another number of axes that it takes.
    """
    found = re.search(r"([123])d", kind)
    return found is None or len(shape_of(node.all_input_nodes[0])) in (int(found[1]) + 2, also)
