"""Batch norm of two processes: outputs, gradients and statistics are those of the whole batch, however it is shared."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch import multiprocessing as mp

from sparsify_cli.training.batchnorm import quiet
from sparsify_cli.training.joint_norms import normalise_together

KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "columns": (lambda: nn.BatchNorm1d(3), (7, 3)),
    "sequences": (lambda: nn.BatchNorm1d(3, momentum=None), (7, 3, 5)),
    "images": (lambda: nn.BatchNorm2d(3, momentum=0.3), (7, 3, 4, 2)),
    "without weights": (lambda: nn.BatchNorm2d(3, affine=False), (7, 3, 4, 2)),
    "without statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (7, 3, 4, 2)),
}
SHARES = (range(0, 7, 2), range(1, 7, 2))
"""Four samples and three."""


def made(kind: str) -> tuple[nn.Module, Tensor]:
    """A layer, away from where it begins, and a batch of 7."""
    make, shape = KINDS[kind]
    layer, generator = make().double(), torch.Generator().manual_seed(2)
    for parameter in layer.parameters():
        parameter.data = torch.randn(3, generator=generator, dtype=torch.float64)
    return layer, 2 + 3 * torch.randn(shape, generator=generator, dtype=torch.float64)


def results(layer: nn.Module, x: Tensor, weight: float) -> dict[str, Tensor]:
    """Two forward passes and one backward pass: what comes out, gradients, buffers."""
    x = x.clone().requires_grad_()
    loss = (layer(x).pow(3).sum(dim=tuple(range(1, x.ndim)))).mean() * weight
    loss.backward()
    layer(x.detach() * 2)
    with quiet(layer):
        layer(x.detach() * 3)
    found = {"x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}, **dict(layer.named_buffers())}
    return {name: value.detach().clone() for name, value in found.items() if value is not None}


def process(rank: int, port: int, folder: str) -> None:
    """One of two."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    found = {}
    for kind in KINDS:
        layer, x = made(kind)
        normalise_together(layer)
        share = x[list(SHARES[rank])]
        found[kind] = results(layer, share, len(share) * 2 / 7)
        found[f"{kind}, eval"] = {"y": layer.eval()(share)}
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("joint")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (port, str(folder)), nprocs=2)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_are_one(halves: list[dict[str, dict[str, Tensor]]], kind: str) -> None:
    """Averaged over processes, gradients are those of the whole batch; buffers are the same on both; eval mode is untouched."""
    layer, x = made(kind)
    whole = results(layer, x, 1.0)
    mine, theirs = (half[kind] for half in halves)
    assert mine.keys() == whole.keys()
    for name, value in whole.items():
        if name == "x":
            for rank, half in enumerate((mine, theirs)):
                assert torch.allclose(half["x"] / 2, value[list(SHARES[rank])], atol=1e-12)
        elif name in dict(layer.named_parameters()):
            assert torch.allclose((mine[name] + theirs[name]) / 2, value, atol=1e-12)
        else:
            assert torch.equal(mine[name], theirs[name])
            assert torch.allclose(mine[name].double(), value.double(), atol=1e-12)
    for rank, half in enumerate(halves if layer.running_mean is not None else []):  # without statistics eval mode is by the batch at hand
        assert torch.allclose(half[f"{kind}, eval"]["y"], layer.eval()(x)[list(SHARES[rank])], atol=1e-12)


def test_alone_a_layer_is_torchs() -> None:
    """Without other processes nothing is summed, bit for bit; layers of other kinds are left alone."""
    layer, x = made("images")
    expected = results(layer, x, 1.0)
    again, _ = made("images")
    normalise_together(again)
    found = results(again, x, 1.0)
    assert all(torch.equal(found[name], value) for name, value in expected.items())

    class Own(nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            return input

    mine = nn.Sequential(Own(3), nn.GroupNorm(1, 3))
    normalise_together(mine)
    assert not any("forward" in vars(part) for part in mine)
