"""One small real file of every kind of checkpoint there is, and the way its users load it; nothing here knows the tool."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tests.torch_files import write_tar

Table = dict[str, Tensor]
WEIGHTS = ("conv.weight", "fc.weight")


class Net(nn.Module):
    """A convolution, batch norm, positions and a linear layer: 288 + 96 prunable weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.pos_embed = nn.Parameter(torch.randn(1, 16, 8))
        self.fc = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Images 4 x 6 x 6 to twelve numbers."""
        tokens = self.bn(self.conv(x)).flatten(2).transpose(1, 2) + self.pos_embed
        return self.fc(tokens.mean(1))


class Free(nn.Module):
    """A module whose state is whatever table it is given."""

    def __init__(self, table: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in table.items():
            *path, last = name.split(".")
            inner: nn.Module = self
            for part in path:
                if not hasattr(inner, part):
                    inner.add_module(part, nn.Module())
                inner = getattr(inner, part)
            inner.register_buffer(last, torch.zeros_like(tensor))


@dataclass(frozen=True)
class Kind:
    """A kind of checkpoint.

    Args:
        make: writes one into an empty folder and gives the path that users name.
        load: what its users do with such a path: name -> tensor, as they see them.
        weights: of a loaded table: name of each prunable tensor without prefixes -> name that `load` gives it.
        flags: what has to be said besides.
        folded: what `load` gives before -> what it gives afterwards when nothing is pruned; None = files are copied and patched.
        others: what is beside the weights.
        run: the network's output, where the kind can be run as it is.
    """

    make: Callable[[Path], Path]
    load: Callable[[Path], Table]
    weights: Callable[[Table], Mapping[str, str]]
    flags: tuple[str, ...] = ()
    folded: Callable[[Table], Table] | None = None
    others: Callable[[Path], Any] = lambda path: None
    run: Callable[[Path], Any] | None = None


def seeded(seed: int = 0) -> Net:
    """A network with fixed random weights, statistics included."""
    torch.manual_seed(seed)
    net = Net().eval()
    net.bn.running_mean.normal_()
    net.bn.running_var.uniform_(0.5, 2)
    return net


def state(seed: int = 0, dtype: torch.dtype = torch.float32, prefix: str = "") -> Table:
    """Its state: floating tensors of a type, names with a prefix."""
    tensors = seeded(seed).state_dict()
    return {prefix + name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def same(one: Any, other: Any) -> bool:
    """Equal trees of tensors, numbers, text and objects with a __dict__; tensors bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and (one.dtype, one.shape) == (other.dtype, other.shape) and raw(one) == raw(other)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (vars(one) == vars(other) if hasattr(one, "__dict__") else one == other)


def raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor in row-major order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def stored(tensor: Tensor) -> bytes:
    """Its bytes as they lie in a file: of the whole storage where its numbers lie apart."""
    return raw(tensor) if tensor.is_contiguous() else bytes(tensor.untyped_storage())


def named(prefix: str = "", names: tuple[str, ...] = WEIGHTS, *, shown: str = "") -> Callable[[Table], dict[str, str]]:
    """Prunable tensors: name without the prefix that wrappers leave -> name with it; `shown` is a prefix that stays."""
    return lambda table: {shown + name: prefix + shown + name for name in names}


# ---------------------------------------------------------------------------------------------------------- torch files


def opened(path: Path) -> Any:
    """What torch reads from a file without running code; people allow argparse's Namespace, which holds options."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def torch_kind(
    build: Callable[[], Any],
    *keys: str,
    weights: Callable[[Table], dict[str, str]] | None = None,
    prefix: str = "",
    module: Callable[[Table], nn.Module] = lambda table: Net(),
    zipped: bool = True,
    folded: Callable[[Table], Table] | None = None,
    name: str = "model.pt",
) -> Kind:
    """A file that `torch.save` wrote, whose table at `keys` is loaded strictly into a module after a prefix was removed."""

    def make(folder: Path) -> Path:
        torch.save(build(), folder / name, _use_new_zipfile_serialization=zipped)
        return folder / name

    def load(path: Path) -> Table:
        table = opened(path)
        for key in keys:
            table = table[key]
        plain = {name.removeprefix(prefix): tensor for name, tensor in table.items()}
        if folded is None or not any(name.endswith("mask") for name in plain):
            module(plain).load_state_dict(plain, strict=True)
        return dict(table)

    def others(path: Path) -> Any:
        content = opened(path)
        return {key: value for key, value in content.items() if key not in keys} if keys else None

    return Kind(make, load, weights or named(prefix), folded=folded, others=others)


def wrapped(key: str, **beside: Any) -> Kind:
    """A table under a key."""
    return torch_kind(lambda: {"epoch": 7, key: state(), **beside}, key)


def lightning() -> Any:
    """What Lightning saves: `model.` before every name, optimizer, loops, hyper-parameters."""
    net = seeded()
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.randn(2, 4, 6, 6)).sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in net.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 1e-3, "args": argparse.Namespace(arch="net", widths=[8, 10])},
    }


def tied() -> Any:
    """An output layer that is the same memory as a linear layer before it."""
    table = {"body.weight": torch.randn(12, 6), "body.bias": torch.randn(12)}
    return {**table, "head.weight": table["body.weight"], "zeros": torch.zeros(3)}


def turned() -> Any:
    """Weights that are stored transposed, strided and from the middle of their memory."""
    wide = torch.randn(20, 30)
    return {
        "a.weight": torch.randn(6, 9).t(),
        "b.weight": wide[2:12:2, 4:20:4],
        "c.weight": torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
    }


def views() -> Any:
    """Query, key and value weights as views of one matrix."""
    q, k, v = torch.randn(18, 6).chunk(3)
    return {"q.weight": q, "k.weight": k, "v.weight": v}


def corners() -> Any:
    """Tensors without numbers, without axes, and with axes of one."""
    table = {"fc.weight": torch.randn(5, 8), "none.weight": torch.zeros(0, 4), "scale": torch.tensor(2.5)}
    return {**table, "steps": torch.tensor(9), "thin.weight": torch.randn(1, 16, 1), "flags": torch.tensor([True, False])}


def mixed() -> Any:
    """Several types of number in one file."""
    types = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return {f"layer{i}.weight": torch.randn(8, 16).to(kind) for i, kind in enumerate(types)}


def free(build: Callable[[], Any], *weights: str, **options: Any) -> Kind:
    """A bare table of whatever tensors."""
    return torch_kind(build, weights=named("", weights), module=Free, **options)


def typed(dtype: torch.dtype) -> Kind:
    """A bare state of a type of number."""
    return torch_kind(lambda: state(dtype=dtype))


def tarred(folder: Path) -> Path:
    """A file as torch before 0.1.10 wrote it."""
    write_tar(folder / "model.pth", {name: tensor for name, tensor in state().items() if tensor.is_floating_point()})
    return folder / "model.pth"


def load_tar(path: Path) -> Table:
    """As it was done then; torch still can, but not without trust. This file was written here."""
    return dict(torch.load(path, weights_only=False))


class Pickled(Net):
    """A network that is pickled whole."""


def whole_module(folder: Path) -> Path:
    """`torch.save(model)`: a pickle that names code."""
    torch.manual_seed(1)
    torch.save(Pickled(), folder / "model.pt")
    return folder / "model.pt"


def load_whole(path: Path) -> Table:
    """What its author does; this file was written here."""
    return dict(torch.load(path, weights_only=False).state_dict())


def pruned_by_torch() -> Any:
    """Half of each weight masked by torch.nn.utils.prune, and an optimizer beside."""
    net = seeded()
    for layer in (net.conv, net.fc):
        prune.random_unstructured(layer, "weight", amount=0.5)
    return {"epoch": 2, "state_dict": dict(net.state_dict()), "optimizer": {"state": {0: {"step": torch.tensor(4.0)}}, "lr": 0.1}}


def multiplied(weight: str, mask: str) -> Callable[[Table], Table]:
    """Weights that are stored as two tensors, as one; endings of the weight's and of the mask's name."""

    def fold(table: Table) -> Table:
        plain: Table = {}
        for name, tensor in table.items():
            layer = name.removesuffix(weight)
            if layer != name and layer + mask in table:
                plain[f"{layer}weight"] = tensor * table[layer + mask].to(tensor.dtype)
            elif not name.endswith(mask):
                plain[name] = tensor
        return plain

    return fold


def masked_by_others(mask: str, dtype: torch.dtype) -> Callable[[], Any]:
    """A state with masks beside the weights, as ModelOpt and NNCF keep them."""

    def build() -> Any:
        table = state()
        torch.manual_seed(5)
        return table | {name.replace("weight", mask): (torch.rand(table[name].shape) < 0.5).to(dtype) for name in WEIGHTS}

    return build


TORCH = {
    "bare": torch_kind(state),
    "legacy": torch_kind(state, zipped=False),
    "tar": Kind(tarred, load_tar, named()),
    **{key: wrapped(key) for key in ("state_dict", "model", "model_state_dict", "net", "params")},
    "ema beside model": wrapped("model", ema=state(1), args=argparse.Namespace(lr=0.1)),
    "legacy with wrapper": torch_kind(
        lambda: {"state_dict": state(prefix="module."), "best": 0.9}, "state_dict", prefix="module.", zipped=False
    ),
    "lightning": torch_kind(lightning, "state_dict", prefix="model.", weights=named(shown="model."), name="last.ckpt"),
    **{prefix: torch_kind(lambda p=prefix: state(prefix=p), prefix=prefix) for prefix in ("module.", "_orig_mod.", "module._orig_mod.")},
    **{str(dtype): typed(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)},
    "mixed types": free(mixed, *(f"layer{i}.weight" for i in range(4))),
    "tied": free(tied, "body.weight"),
    "non-contiguous": free(turned, "a.weight", "b.weight", "c.weight"),
    "non-contiguous legacy": free(turned, "a.weight", "b.weight", "c.weight", zipped=False),
    "views": free(views, "q.weight", "k.weight", "v.weight"),
    "views legacy": free(views, "q.weight", "k.weight", "v.weight", zipped=False),
    "corners": free(corners, "fc.weight"),
    "whole module": Kind(whole_module, load_whole, named(), flags=("--trust-pickle",)),
    "torch-prune": torch_kind(pruned_by_torch, "state_dict", folded=multiplied("weight_orig", "weight_mask")),
    "ModelOpt": torch_kind(masked_by_others("_weight_mask", torch.bool), folded=multiplied("weight", "_weight_mask")),
    "NNCF": torch_kind(
        masked_by_others("pre_ops.0.op._binary_mask", torch.float32), folded=multiplied("weight", "pre_ops.0.op._binary_mask")
    ),
}
