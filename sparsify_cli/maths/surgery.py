"""What is done to each tensor of a network when channels are taken out: what is folded in, and which entries stay.

Source: none; see channel_cuts.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from sparsify_cli.maths.channel_cuts import Cut, Reading, owed, staying
from sparsify_cli.maths.channel_spaces import BATCH_NORMS
from sparsify_cli.maths.traced import shape_of, traced
from sparsify_cli.values.mask_set import MaskSet


@dataclass(frozen=True, eq=False)
class Surgery:
    """Changes of a network's tensors.

    Args:
        stay: name -> axis -> the entries along it that stay.
        folded: name -> its new values before entries go, float64; a bias that is not there yet is added.
        carried: name of a weight -> its columns that carry others, of each reading, with what goes.
    """

    stay: Mapping[str, Mapping[int, Tensor]]
    folded: Mapping[str, Tensor]
    carried: Mapping[str, Sequence[tuple[Reading, int, Cut]]]

    def tensors(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A network's tensors afterwards; what was not folded keeps its bits, what was is at least float32."""
        after = {name: self.cut(name, _stored(self.folded[name], old) if name in self.folded else old) for name, old in given.items()}
        added = {name: new for name, new in self.folded.items() if name not in given}
        added = {name: given.get(f"{name.removesuffix('bias')}weight", new.float()) for name, new in added.items()}
        return after | {name: self.cut(name, _stored(self.folded[name], like)) for name, like in added.items()}

    def masks(self, given: MaskSet) -> MaskSet:
        """The masks of the tensors afterwards: a column that carries others holds wherever one of them did."""
        found = {}
        for name, mask in given.items():
            for reading, column, cut in self.carried.get(name, ()):
                mask = mask.clone()
                columns, gone = reading.of(mask), (~cut.kept & cut.border).repeat_interleave(reading.heard.repeat)
                columns[:, column] |= columns[:, gone].any(1)
            found[name] = self.cut(name, mask)
        return MaskSet(found)

    def cut(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor without the entries that go."""
        for dim, entries in self.stay.get(name, {}).items():
            tensor = tensor.index_select(dim, entries.to(tensor.device))
        return tensor

    def shapes(self, given: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """New shapes of the tensors that have others afterwards, and of those that are added."""
        after = {name: tuple(tensor.shape) for name, tensor in self.tensors(given).items()}
        return {name: shape for name, shape in after.items() if name not in given or tuple(given[name].shape) != shape}


def surgery(module: nn.Module, cuts: Sequence[Cut], inputs: Tensor) -> Surgery:
    """Work out what a set of cuts does to each tensor.

    Args:
        module: the network; left as it was.
        cuts: what goes of each group.
        inputs: [n, ...] samples, to trace it.
    """
    state, norms = module.state_dict(), norms_after(module, inputs)
    stay = _staying(state, cuts)
    folded: dict[str, Tensor] = {}
    carried: dict[str, list[tuple[Reading, int, Cut]]] = {}
    names = _names(module)
    for cut in (cut for cut in cuts if cut.removed):
        for reading in cut.readings:
            column, delta = owed(reading.of(folded.get(reading.heard.weight, state[reading.heard.weight]).double()), reading, cut)
            if column is not None and cut.carrier is not None:
                at = reading.carrying(cut.carrier)
                for name in names[reading.heard.weight]:
                    folded[name] = folded.get(name, state[name]).double().clone()
                    reading.of(folded[name])[:, at] = column
                    carried.setdefault(name, []).append((reading, at, cut))
            if delta.any():
                _fold(reading, delta, norms, folded, module)
    for name in [name for name in folded if name not in state]:
        stay[name] = {dim: entries for dim, entries in stay.get(f"{name.removesuffix('bias')}weight", {}).items() if dim == 0}
    return Surgery(stay, folded, carried)


def _staying(state: Mapping[str, Tensor], cuts: Sequence[Cut]) -> dict[str, dict[int, Tensor]]:
    """Of each tensor, the entries that stay along its axes."""
    kept: dict[str, dict[int, Tensor]] = {}
    for (name, dim), whole in staying(state, cuts).items():
        kept.setdefault(name, {})[dim] = whole.nonzero().flatten()
    return kept


def _fold(reading: Reading, delta: Tensor, norms: Mapping[str, str], folded: dict[str, Tensor], module: nn.Module) -> None:
    """Add something to what a layer puts out: to its bias, or to the mean that the batch norm behind it takes away."""
    layer, norm = module.get_submodule(reading.heard.module), norms.get(reading.heard.node)
    leaf = "bias"
    if getattr(layer, "bias", None) is None and norm is not None:
        layer, leaf, delta = module.get_submodule(norm), "running_mean", -delta
    old: Tensor | None = getattr(layer, leaf, None)
    same = [path for path, part in module.named_modules(remove_duplicate=False) if part is layer]
    for name in (f"{path}.{leaf}".lstrip(".") for path in same):  # a layer may be known under several names
        before = folded.get(name, old)
        folded[name] = delta + before.detach().double() if before is not None else delta


def norms_after(module: nn.Module, inputs: Tensor) -> dict[str, str]:
    """Calls of layers whose outputs go into one batch norm, which is called for nothing else, and nowhere else -> the batch norm."""
    nodes = list(traced(module, inputs)[0].graph.nodes)
    times = [str(node.target) for node in nodes if node.op == "call_module"]
    found = {}
    for node in nodes:
        after = next(iter(node.users)) if node.op == "call_module" and len(node.users) == 1 else None
        if after is not None and after.op == "call_module" and times.count(str(after.target)) == 1:
            norm = module.get_submodule(str(after.target))
            if isinstance(norm, BATCH_NORMS) and norm.running_mean is not None and _channels_second(module, node):
                found[node.name] = str(after.target)
    return found


def _channels_second(module: nn.Module, node: fx.Node) -> bool:
    """Whether a layer puts its outputs where a batch norm looks for channels: not a linear layer on tokens."""
    return not isinstance(module.get_submodule(str(node.target)), nn.Linear) or len(shape_of(node)) == 2


def _names(module: nn.Module) -> dict[str, list[str]]:
    """Every name of the tensor that a name stands for."""
    alike: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        alike.setdefault(id(tensor), []).append(name)
    return {name: names for names in alike.values() for name in names}


def _stored(folded: Tensor, old: Tensor) -> Tensor:
    return folded.to(old.dtype if old.element_size() >= 4 else torch.float32)
