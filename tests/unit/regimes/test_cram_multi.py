"""CrAM-Multi: what is drawn, that everybody draws the same, and what each draw compresses to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from sparsify_cli.criteria.magnitude import Magnitude
from sparsify_cli.errors import BadRequest, Infeasible
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.regimes.cram import Cram
from sparsify_cli.regimes.cram_multi import CramMulti
from sparsify_cli.regimes.cram_plus import CramPlus
from sparsify_cli.stages.sparsifier import Sparsifier
from sparsify_cli.training import guard
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from tests.two_gradients import NAMES, STILL, check_resumes, copied, one_step, run_of, same, seen_by_passes, trained

ROOT = Path(__file__).parents[3]


def zeros(weights: dict[str, Tensor]) -> int:
    """Zeros of the 200 prunable weights."""
    return sum(int((weights[name] == 0).sum()) for name in NAMES)


def drawn(run: Run, regime: CramMulti, steps: int) -> list[int]:
    """Zeros that the second pass of each step sees."""
    regime.start(run)
    with seen_by_passes(run) as seen:
        for _ in range(steps):
            one_step(run, regime)
    return [zeros(weights) for weights in seen[1::2]]


def test_the_default_list_is_the_papers() -> None:
    """For --sparsity 0.9: 0.5, 0.7 and 0.9, drawn about equally often; 200 weights, so 100, 140 and 180 zeros."""
    found = drawn(run_of("0.9"), CramMulti(), 90)
    assert set(found) == {100, 140, 180}
    assert all(15 <= found.count(one) <= 45 for one in (100, 140, 180))


def test_the_list_is_what_was_asked_for_and_the_sparsity_itself() -> None:
    """Levels below, in any order, once each; as text or as a list."""
    for levels in ("0.3, 0.55,0.8", [0.55, 0.3], "0.3,0.55"):
        regime = TypeAdapter(CramMulti).validate_python({"levels": levels})
        assert set(drawn(run_of("0.8"), regime, 40)) == {60, 110, 160}


def test_two_runs_draw_the_same_and_another_seed_does_not() -> None:
    """What is drawn depends on seed and step alone, whatever else draws random numbers."""
    first = drawn(run_of("0.9"), CramMulti(), 40)
    other = run_of("0.9")
    torch.manual_seed(99)
    assert drawn(other, CramMulti(), 40) == first
    third = run_of("0.9")
    third.seed = 1
    assert drawn(third, CramMulti(), 40) != first


@pytest.mark.parametrize(("plus", "kind"), [(True, CramPlus), (False, Cram)])
def test_with_one_level_it_is_the_single_regime(plus: bool, kind: type) -> None:
    """A list that holds --sparsity alone: bit for bit cram-plus, or cram without plus."""
    single = trained(run_of("0.8"), kind(rho=0.2)).state()["model"]
    assert same(trained(run_of("0.8"), CramMulti(levels="0.8", rho=0.2, plus=plus)).state()["model"], single)


def test_levels_start_where_the_network_is() -> None:
    """From 50 % towards 95 %: 75 %, 85 % and 95 %."""
    assert set(drawn(run_of("0.95", pruned="0.5"), CramMulti(), 40)) == {150, 170, 190}


@pytest.mark.parametrize("options", [{}, {"every": 3}, {"patterns": "2:4,1:4"}, {"patterns": "2:4,1:4", "every": 3}])
def test_it_resumes_bit_for_bit(options: dict[str, object]) -> None:
    """From the state after any step, with masks that are used several times as well."""
    check_resumes(lambda: run_of("0.9", optimizer="adamw", pruned="0.3", frozen=True), CramMulti(**options))


def test_masks_of_each_level_are_used_by_themselves() -> None:
    """With every = 1000 each level chooses once, at its first use, and its zeros are the same weights from then on."""
    run, chosen = run_of("0.9"), []
    inner = run.sparsify

    def counting(weights: dict[str, Tensor], sparsity: Fraction, **options: object) -> MaskSet:
        chosen.append(float(sparsity))
        return inner(weights, sparsity, **options)

    run.sparsify = counting
    regime = CramMulti(every=1000)
    regime.start(run)
    with seen_by_passes(run) as seen:
        for _ in range(30):
            one_step(run, regime)
    assert sorted(chosen) == [0.5, 0.7, 0.9]
    supports = {tuple((weights[name] != 0).flatten().tolist() for name in NAMES).__repr__() for weights in seen[1::2]}
    assert len(supports) == 3


class Layers(nn.Module):
    """A first convolution of 3 channels, which carries no pattern; one of 8 channels, 5 x 8 x 3 x 3; and a linear layer of 8 inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.conv, self.fc = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.fc(self.conv(self.first(images)).relu().mean((2, 3)))
        return logits


FROZEN = {"conv.weight": (torch.arange(576) % 5 == 0).reshape(8, 8, 3, 3)}


def layers_run(*, constrained: bool = False) -> Run:
    """A run towards 2:4; constrained, with frozen weights and a tenth pruned."""
    model = Layers()
    names = ("first.weight", "conv.weight", "fc.weight")
    sparsify = Sparsifier(names, Magnitude(), "global", Pattern.parse("2:4"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = Run(model, model, optimizer, lambda loss: loss.backward(), total=20, per_epoch=20, sparsify=sparsify, target=Fraction(49, 100))
    if constrained:
        run.masks = MaskSet({"conv.weight": (torch.arange(576) % 9 != 4).reshape(8, 8, 3, 3) | FROZEN["conv.weight"]})
        run.frozen = guard.freeze(run.weights(), FROZEN)
    return run


def second_passes(run: Run, regime: CramMulti, steps: int = 20) -> list[dict[str, Tensor]]:
    """The weights that the second pass of each step sees."""
    images = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    regime.start(run)
    with seen_by_passes(run) as seen:
        for _ in range(steps):
            regime.step(run, lambda: run.model(images).square().mean())
            run.step += 1
    return seen[1::2]


def test_patterns_hold_along_input_channels() -> None:
    """Each step sees exactly 2 of 4 or 4 of 8 consecutive input channels of one kernel position, both about equally often."""
    fours = []
    for weights in second_passes(layers_run(), CramMulti(patterns="2:4,4:8"), 30):
        counts = {size: [] for size in (4, 8)}
        for name in ("conv.weight", "fc.weight"):
            kept = weights[name] != 0
            rows = kept.permute(0, 2, 3, 1) if kept.ndim == 4 else kept
            for size, found in counts.items():
                found += rows.reshape(-1, size).sum(1).tolist()
        assert set(counts[8]) == {4}
        fours.append(set(counts[4]) == {2})
        assert (weights["first.weight"] != 0).all()
    assert 8 <= sum(fours) <= 22


def test_patterns_keep_the_largest() -> None:
    """In every group of four what stays is not smaller than what goes."""
    run = layers_run()
    regime = CramMulti(patterns="2:4", rho=0.0)
    before = copied(run)["conv.weight"].permute(0, 2, 3, 1).reshape(-1, 4).abs()
    kept = second_passes(run, regime, 1)[0]["conv.weight"].permute(0, 2, 3, 1).reshape(-1, 4) != 0
    smallest_kept = before.masked_fill(~kept, 9).min(1).values
    assert (smallest_kept > before.masked_fill(kept, 0).max(1).values).all()


def test_patterns_respect_masks_and_frozen_weights() -> None:
    """What is frozen stays in every draw with its bits, what is pruned stays out, and groups hold no more than the pattern lets."""
    run = layers_run(constrained=True)
    before, mask = copied(run)["conv.weight"], run.masks["conv.weight"]
    for weights in second_passes(run, CramMulti(patterns="2:4,4:8", rho=0.5)):
        weight = weights["conv.weight"]
        assert torch.equal(weight[FROZEN["conv.weight"]], before[FROZEN["conv.weight"]])
        assert (weight[~mask] == 0).all()
        assert int((weight != 0).permute(0, 2, 3, 1).reshape(-1, 8).sum(1).max()) <= 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"levels": "0.5,x"}, "'x' is not a number"),
        ({"levels": "50"}, r"write 0\.5"),
        ({"patterns": "2:4,unstructured"}, "cannot draw the pattern unstructured"),
        ({"patterns": "2:4,block:4x1"}, "cannot draw the pattern block:4x1"),
        ({"patterns": "5:4"}, "keeps 5 of every 4"),
        ({"levels": "0.5", "patterns": "2:4"}, "either levels or patterns"),
        ({"rho": -1.0}, "cram-multi cannot perturb"),
        ({"every": 0}, "cram-multi cannot choose its masks every 0"),
    ],
)
def test_mistyped_options_are_refused(options: dict[str, object], said: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(BadRequest, match=said):
        CramMulti(**options)


@pytest.mark.parametrize(("levels", "pruned"), [("0.5,0.85", ""), ("0.3", "0.5")])
def test_levels_outside_what_can_be_are_refused(levels: str, pruned: str) -> None:
    """Above --sparsity, or below what is pruned already."""
    with pytest.raises(BadRequest, match="cram-multi cannot train for the sparsity"):
        CramMulti(levels=levels).start(run_of("0.8", pruned=pruned))


def test_a_pattern_that_no_layer_carries_is_refused_at_the_start() -> None:
    """Not at the step that happens to draw it."""
    with pytest.raises(Infeasible, match="No layer can carry 8:16"):
        CramMulti(patterns="2:4,8:16").start(layers_run())


def test_frozen_weights_stay() -> None:
    """In every pass of a run that draws levels."""
    run = run_of("0.9", frozen=True)
    before = copied(run)["4.weight"][STILL["4.weight"]]
    with seen_by_passes(run) as seen:
        trained(run, CramMulti(rho=0.5))
    assert len(seen) == 2 + 2 * 12  # two try the data
    assert all(torch.equal(weights["4.weight"][STILL["4.weight"]], before) for weights in [*seen, copied(run)])


PROCESSES = """
import json, torch
from fractions import Fraction
from pathlib import Path
from torch import nn
from sparsify_cli.criteria.magnitude import Magnitude
from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.regimes.cram_multi import CramMulti
from sparsify_cli.regimes.sam import Sam
from sparsify_cli.stages.sparsifier import Sparsifier
from sparsify_cli.training.engine import engine, setup
from sparsify_cli.training.loop import train
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples

start = engine("cpu")
inputs = torch.randn(96, 8, generator=torch.Generator().manual_seed(0))
samples = Samples(inputs, (inputs[:, 0] > 0).long(), tuple(str(i) for i in range(96)))
found = {}
for label, regime in {"levels": CramMulti(rho=0.3), "patterns": CramMulti(patterns="2:4,4:8", rho=0.3), "sam": Sam(rho=0.3)}.items():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    forward, optimizer = setup(start, model, lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9))
    choose = start.agreed(Sparsifier(("0.weight", "2.weight"), Magnitude(), "global", Pattern()))
    run = Run(model, forward, optimizer, start.backward, total=12, per_epoch=3, sparsify=choose, target=Fraction(3, 4))
    run.settle = start.from_first if start.world > 1 else run.settle
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(sum(int((p == 0).sum()) for p in model.parameters())))
    train(run, regime, CrossEntropy().prepare(nn.Module), samples, batch_size=32, seed=3, learning_rate=lambda *_: 0.1,
          rank=start.rank, world=start.world, stop_requested=start.everywhere(lambda: False))
    found[label] = [seen, {name: p.flatten().tolist() for name, p in run.weights().items()}]
Path(f"rank{start.rank}of{start.world}.json").write_text(json.dumps(found))
start.close()
"""


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    """Both draw the same, end with the same bits, and with the weights of one process up to rounding: both gradients are averaged."""
    script = tmp_path / "several.py"
    script.write_text(PROCESSES)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]):
        command = [sys.executable, *launcher, str(script)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
    alone, first, second = (json.loads((tmp_path / name).read_text()) for name in ("rank0of1.json", "rank0of2.json", "rank1of2.json"))
    assert first == second
    for label, (seen, weights) in alone.items():
        assert first[label][0] == seen
        assert len(set(seen)) == {"levels": 4, "patterns": 2, "sam": 1}[label]
        for name, values in weights.items():
            assert first[label][1][name] == pytest.approx(values, rel=1e-9, abs=1e-9)
