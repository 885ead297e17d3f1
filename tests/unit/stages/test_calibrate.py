"""Calibration and solving through a network: what each layer saw, in which order, and what a request needs."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.contracts.listener import Listener
from sparsify_cli.errors import BadRequest, MissingContext, NonFinite, UnknownName
from sparsify_cli.maths.matrix_view import to_matrix
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.recipe import resolve
from sparsify_cli.recipes.verbs import FinetuneRecipe, PruneRecipe
from sparsify_cli.shelf import Shelf
from sparsify_cli.stages import calibrate as module_under_test
from sparsify_cli.stages.calibrate import calibrate, calibration_inputs, execution_order, needs_inputs, statistics
from sparsify_cli.stages.dry_run import dry_run
from sparsify_cli.stages.prune import prune
from sparsify_cli.stages.solve import solved, solver_of
from sparsify_cli.stages.sparsifier import sparsifier
from sparsify_cli.stages.subject import Subject, open_subject
from sparsify_cli.training.lockstep import uses
from sparsify_cli.values.checkpoint import Checkpoint, Source, Spec
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.stats import Stats

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(8, 3)
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 8, 3, groups=2)
        self.never_run = nn.Linear(4, 4)
        self.free = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.last(self.grouped(x).relu().mean((2, 3)) @ self.free)

def data(split):
    generator = torch.Generator().manual_seed({"train": 0, "validation": 1, "test": 2}[split])
    return {"x": torch.randn(60, 1, 6, 6, generator=generator), "y": torch.arange(60) % 3}
"""
GPT = Choice("sparsegpt")


@pytest.fixture
def files():
    """net.py and a checkpoint of its network in the current folder."""
    Path("net.py").write_text(NET, encoding="utf-8")
    subject = Subject(Checkpoint({}, Source("model.pt", "")), MaskSet(), Spec("net.py:Net"))
    module = module_of(subject)
    torch.save(module.state_dict(), "model.pt")
    return module


def module_of(subject):
    """A network of net.py with its initial weights."""
    from sparsify_cli.stages.resolve import build_architecture

    torch.manual_seed(0)
    return build_architecture(subject.architecture).eval()


def request(**fields):
    """A prune recipe on the files."""
    context = {"model": "model.pt", "arch": "net.py:Net", "data": "net.py:data", "sparsity": Fraction(1, 2)}
    return PruneRecipe(**{**context, **fields})


def chain():
    """Two linear layers, registered in the reverse order of running."""
    net = nn.Sequential()
    net.add_module("b", nn.Linear(3, 2))
    net.add_module("a", nn.Linear(4, 3))
    net.forward = lambda x: net.b(net.a(x))
    return net


def test_gram_is_the_mean_over_rows():
    """X X^T / n over the rows each layer saw, in any batch size; the second layer sees what the first puts out."""
    net, x = chain(), torch.randn(23, 4)
    hidden = net.a(x).detach().double()
    for batch in (1, 5, 64):
        stats = calibrate(net, x, ["a.weight", "b.weight"], batch=batch)
        assert stats.rows == {"a.weight": 23, "b.weight": 23}
        torch.testing.assert_close(stats.gram["a.weight"], x.double().T @ x.double() / 23, rtol=0, atol=1e-12)
        torch.testing.assert_close(stats.gram["b.weight"], hidden.T @ hidden / 23, rtol=0, atol=1e-6)
    torch.testing.assert_close(stats.second_moment("a.weight"), x.double().square().mean(0), rtol=0, atol=1e-12)


def test_squares_of_inputs_need_no_gram_matrix():
    """Mean and variance give its diagonal to 1e-12: with groups, an input far from zero, one that is never active; so do scores."""
    net, x = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), torch.randn(200, 4, 5, 5).relu()
    x[:, 1] += 1000
    x[:, 2] = 0
    whole = Stats(gram=calibrate(net, x, ["0.weight"], batch=13).gram)
    alone = calibrate(net, x, ["0.weight"], batch=13, gram=False)
    assert not alone.gram
    torch.testing.assert_close(alone.second_moment("0.weight"), whole.second_moment("0.weight"), rtol=1e-12, atol=0)
    for name in ("wanda", "ria"):
        criterion, weight = Shelf("criteria").load(name)(), {"0.weight": net[0].weight.detach()}
        assert "gram" not in criterion.needs
        torch.testing.assert_close(criterion.scores(weight, alone), criterion.scores(weight, whole), rtol=1e-12, atol=0)


def test_wide_layers_are_ranked_where_their_gram_matrices_do_not_fit(monkeypatch, files):
    """No Gram matrix is planned or held for Wanda."""
    monkeypatch.setattr(module_under_test, "SHARE", 1e-12)
    recipe = request(criterion=Choice("wanda"))
    found = statistics(recipe, open_subject(recipe), ["first.weight", "grouped.weight", "last.weight"])
    assert found.inputs and not found.gram


def test_a_layer_that_runs_twice_is_seen_twice():
    """Rows of both calls count, and n counts them both."""
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    x = torch.randn(7, 2)
    stats = calibrate(net, x, ["0.weight"])
    both = torch.cat([x, layer(x).relu().detach()]).double()
    assert stats.rows == {"0.weight": 14}
    torch.testing.assert_close(stats.gram["0.weight"], both.T @ both / 14, rtol=0, atol=1e-6)


def test_layers_of_one_weight_are_seen_together():
    """Rows of both count where they multiply alike; a weight that torch computes anew at each look is nobody else's."""
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    net, x = nn.Sequential(first, nn.ReLU(), second, normed), torch.randn(7, 2)
    stats = calibrate(net, x, ["0.weight"])
    both = torch.cat([x, first(x).relu().detach()]).double()
    assert stats.rows == {"0.weight": 14}
    torch.testing.assert_close(stats.gram["0.weight"], both.T @ both / 14, rtol=0, atol=1e-6)
    assert {name: len(every) for name, every in uses(net, {"a": first, "b": second, "c": normed}).items()} == {"a": 2, "b": 2, "c": 1}


def test_the_network_is_left_alone():
    """Weights, running statistics and modes are as before, no hook is left, and dropout is off meanwhile."""
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x = torch.randn(9, 3)
    first, second = (calibrate(net, x, ["3.weight"]).gram["3.weight"] for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(part.training for part in net.modules())
    assert not any(part._forward_pre_hooks for part in net.modules())


def test_order_is_the_order_of_running(files):
    """Layers come as the network runs them, not as they are registered; what never runs or is no layer is left out."""
    names = [f"{name}.weight" for name in ("last", "never_run", "grouped", "first", "norm")] + ["free"]
    assert execution_order(files, torch.randn(4, 1, 6, 6), names) == ["first.weight", "grouped.weight", "last.weight"]


def test_infinite_inputs_are_refused():
    """A layer whose inputs are not finite is named."""
    with pytest.raises(NonFinite, match=r"inputs of a\.weight"):
        calibrate(chain(), torch.full((2, 4), torch.inf), ["a.weight"])


def test_too_much_memory_is_refused(monkeypatch):
    """Before anything is run: 16 and 9 numbers of 8 bytes do not fit when next to no memory may be used."""
    monkeypatch.setattr(module_under_test, "SHARE", 1e-12)
    with pytest.raises(BadRequest, match=r"--skip a\.weight"):
        calibrate(chain(), torch.randn(2, 4), ["a.weight", "b.weight"])


def test_samples_are_training_samples_without_the_judges(files):
    """As many as asked for, or all that do not judge batch norm; another seed draws others, the same seed the same."""
    subject = open_subject(request())
    train = subject.samples("train").inputs
    few = calibration_inputs(request(samples=10), subject)
    assert len(few) == 10 and all(bool((train == one).flatten(1).all(1).any()) for one in few)
    assert torch.equal(few, calibration_inputs(request(samples=10), subject))
    assert not torch.equal(few, calibration_inputs(request(samples=10, seed=1), subject))
    assert len(calibration_inputs(request(samples=1000), subject)) == 54


@pytest.mark.parametrize(
    ("fields", "flags"),
    [({"arch": ""}, ["--arch"]), ({"data": ""}, ["--data"]), ({"arch": "", "data": ""}, ["--arch NAME and --data NAME"])],
    ids=["arch", "data", "both"],
)
@pytest.mark.parametrize("asking", [{"solver": GPT}, {"criterion": Choice("wanda")}], ids=["solver", "criterion"])
def test_missing_context_names_the_flag(files, fields, flags, asking):
    """What needs inputs says which flag to add."""
    recipe = request(**fields, **asking, include=("first", "grouped", "last"))
    with pytest.raises(MissingContext) as caught:
        prune(recipe, Listener())
    assert all(flag in str(caught.value) for flag in flags)
    assert needs_inputs(recipe) in str(caught.value)
    with pytest.raises(MissingContext):
        dry_run(recipe, Listener())
    assert not Path("runs").exists()


def test_data_free_requests_need_nothing(files):
    """Magnitude is planned and pruned from the file alone, and asks for no calibration."""
    recipe = request(arch="", data="")
    assert needs_inputs(recipe) == ""
    assert [table.title for table in dry_run(recipe, Listener()).tables] == ["plan", "expected"]
    assert float(prune(recipe, Listener()).report.get("sparsity").value) == pytest.approx(0.5, abs=0.01)


def test_wanda_refuses_tensors_without_inputs(files):
    """Layers that never run cannot be ranked by their inputs; the sentence names one and the way out."""
    subject = open_subject(request())
    with pytest.raises(BadRequest, match=r"--skip never_run\.weight"):
        statistics(request(criterion=Choice("wanda")), subject, ["first.weight", "never_run.weight"])


def test_training_verbs_do_not_calibrate():
    """A criterion that needs inputs is refused where masks change while training."""
    with pytest.raises(BadRequest, match="`finetune` ranks weights while they train"):
        sparsifier(FinetuneRecipe(criterion=Choice("wanda")), ["a"])


def test_wanda_by_hand(files):
    """|w| times the root mean square of each group's own inputs."""
    subject = open_subject(request())
    recipe = request(criterion=Choice("wanda"))
    scores = sparsifier(recipe, ["grouped.weight"], stats=statistics(recipe, subject, ["grouped.weight"])).scores(
        {"grouped.weight": files.grouped.weight.detach()}
    )["grouped.weight"]
    with torch.no_grad():
        inputs = files.norm(files.first(calibration_inputs(recipe, subject))).relu()
    windows = inputs.unfold(2, 3, 1).unfold(3, 3, 1).double()  # [n, channel, y, x, kh, kw]
    means = windows.square().mean((0, 2, 3)).sqrt()
    weight = files.grouped.weight.detach().double().abs()
    expected = torch.cat([weight[:4] * means[:2], weight[4:] * means[2:]])
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=0)


def run_solver(recipe):
    """What the solver makes of uniform magnitude masks on the prunable layers of net.py."""
    before = open_subject(recipe)
    names = ["last.weight", "first.weight", "grouped.weight", "never_run.weight"]
    chooser = sparsifier(recipe, names)
    masks = chooser.once(before.checkpoint.tensors, Fraction(1, 2), pruned=MaskSet())
    return before, masks, solved(recipe, before, masks, chooser, Listener())


def test_every_layer_keeps_its_count(files):
    """Each layer, and each group of a grouped convolution, keeps as many weights as before; the rest is zero."""
    before, masks, found = run_solver(request(solver=GPT, allocation="uniform"))
    assert {name: int(mask.sum()) for name, mask in found.masks.items()} == {name: int(mask.sum()) for name, mask in masks.items()}
    for half in (slice(0, 4), slice(4, 8)):
        assert int(found.masks["grouped.weight"][half].sum()) == int(masks["grouped.weight"][half].sum())
    assert not any(bool(found.tensors[name][~mask].any()) for name, mask in found.masks.items())
    assert list(found.facts["output_change"]) == ["first.weight", "grouped.weight", "last.weight"]
    changed = {name for name, tensor in found.tensors.items() if not torch.equal(tensor, before.checkpoint.tensors[name])}
    assert changed == set(masks) | {"first.bias", "grouped.bias", "last.bias", "norm.running_mean", "norm.running_var"}


def test_what_moves_beside_the_weights_can_be_left_alone(files):
    """Without bias correction and batch norm, only pruned tensors change; with one of them, only what it moves besides."""
    moved = {"bias": {"first.bias", "grouped.bias", "last.bias"}, "batchnorm": {"norm.running_mean", "norm.running_var"}, "": set()}
    for kept, expected in moved.items():
        before, masks, found = run_solver(request(solver=GPT, bias=kept == "bias", batchnorm=kept == "batchnorm"))
        changed = {name for name, tensor in found.tensors.items() if not torch.equal(tensor, before.checkpoint.tensors[name])}
        assert changed == set(masks) | expected
        assert found.followed is (kept == "batchnorm")


def test_progress_is_told(files):
    """A listener hears of each layer, of how many, and that it is over."""

    class Heard(Listener):
        heard: list[object]

        def progress(self, now):
            self.heard.append((now.label, now.step, now.total))

        def done(self):
            self.heard.append("done")

    listener = Heard()
    listener.heard = []
    prune(request(solver=GPT, skip=("never_run", "free", "last"), sparsity=Fraction(9, 10)), listener)
    layers = ["first.weight", "grouped.weight"]
    told = [[(f"{what} {name}", i, 2) for i, name in enumerate(layers, start=1)] + ["done"] for what in ("measuring", "solving")]
    assert listener.heard == told[0] + told[1]
    listener.heard = []
    prune(request(solver=GPT, skip=("never_run", "free", "last"), allocation="uniform"), listener)
    assert listener.heard == told[1]


def test_layers_no_solver_takes_keep_their_masks(files):
    """A layer that never runs keeps the criterion's mask and its other weights bit for bit, and a note names it."""
    before, masks, found = run_solver(request(solver=GPT))
    name = "never_run.weight"
    assert torch.equal(found.masks[name], masks[name])
    assert torch.equal(found.tensors[name], before.checkpoint.tensors[name] * masks[name])
    assert any("1 tensor pruned without repair" in note and name in note for note in found.notes)


def test_later_layers_see_pruned_predecessors(files):
    """The reported change is E|W z - V x|^2 / E|W z|^2, z from the dense network, x from the pruned first layer or the dense one."""
    for sequential in (True, False):
        recipe = request(solver=Choice("sparsegpt", {"sequential": sequential}))
        before, _, found = run_solver(recipe)
        dense = module = before.module()
        if sequential:
            module = before.changed(before.checkpoint.with_tensors(found.tensors), found.masks).module()
        with torch.no_grad():
            then, now = (net.norm(net.first(calibration_inputs(recipe, before))).relu().double() for net in (dense, module))
        old, new = before.checkpoint.tensors["grouped.weight"].double(), found.tensors["grouped.weight"].double()
        wanted, have = functional.conv2d(then, old, groups=2), functional.conv2d(now, new, groups=2)
        expected = float((wanted - have).square().sum() / wanted.square().sum())
        assert found.facts["output_change"]["grouped.weight"] == pytest.approx(expected, rel=1e-4)


def test_prune_with_a_solver_end_to_end(files):
    """Exact total, masks that match the zeros, facts in the manifest, and never more weights than a first pruning left."""
    recipe = request(solver=Choice("sparsegpt", {"damping": 0.05}), samples=20, out="once", skip=("never_run", "free"))
    outcome = prune(recipe, Listener())
    facts = json.loads(Path("once/manifest.json").read_text(encoding="utf-8"))["facts"]
    assert facts["solver"] == {
        "name": "sparsegpt",
        "block": 0,
        "budget": "layer",
        "damping": 0.05,
        "precision": "auto",
        "sequential": True,
    }
    assert facts["calibration_samples"] == 20
    total = 36 + 144 + 24
    assert outcome.report.get("sparsity").value == (total // 2) / total
    again = prune(request(model="once", solver=GPT, sparsity=Fraction(3, 4), out="twice", skip=("never_run", "free")), Listener())
    first, second = (open_subject(PruneRecipe(model=name)) for name in ("once", "twice"))
    assert second.masks <= first.masks and second.masks.kept == total // 4
    assert again.report.get("sparsity").value == 0.75


def test_names_may_differ_by_a_prefix(files):
    """An artifact that kept a wrapper's prefix is calibrated and solved under its architecture's names, as the file without it."""
    context = {"sparsity": Fraction(1, 2), "skip": ("*never_run", "*free")}
    torch.save({f"net.{name}": tensor for name, tensor in files.state_dict().items()}, "wrapped.pt")
    prune(PruneRecipe(model="wrapped.pt", out="once", sparsity=Fraction(0), skip=context["skip"]), Listener())
    for word, asking in (("solver", GPT), ("criterion", Choice("wanda"))):
        prune(request(model="once", out=f"wrapped-{word}", **context, **{word: asking}), Listener())
        prune(request(out=f"plain-{word}", **context, **{word: asking}), Listener())
        wrapped, plain = (open_subject(PruneRecipe(model=f"{kind}-{word}")) for kind in ("wrapped", "plain"))
        assert all(name.startswith("net.") for name in torch.load(f"wrapped-{word}/wrapped.pt", weights_only=True))
        for name in plain.masks:
            assert torch.equal(wrapped.masks[name], plain.masks[name])
            assert torch.equal(wrapped.checkpoint.tensors[name], plain.checkpoint.tensors[name])


def test_two_of_four_with_a_solver(files):
    """The pattern holds in every group of the layers that can carry it; the one with one input channel stays dense and unchanged."""
    recipe = request(solver=GPT, pattern=Pattern.parse("1:2"), sparsity=None, out="half", skip=("never_run", "free"))
    prune(recipe, Listener())
    after = open_subject(PruneRecipe(model="half"))
    assert bool(after.masks["first.weight"].all())
    assert torch.equal(after.checkpoint.tensors["first.weight"], files.first.weight)
    for name in ("grouped.weight", "last.weight"):
        assert to_matrix(after.masks[name]).reshape(-1, 2).sum(1).unique().tolist() == [1]


def test_solvers_are_checked_before_anything_runs(files):
    """Unknown names and options, and patterns a solver cannot hold, are refused with a sentence, in a dry run too."""
    with pytest.raises(UnknownName, match="Did you mean 'sparsegpt'"):
        dry_run(request(solver=Choice("sparsgpt")), Listener())
    with pytest.raises(UnknownName, match="damping"):
        solver_of(request(solver=Choice("sparsegpt", {"dampening": 1})))
    with pytest.raises(BadRequest, match=r"damping = -1"):
        solver_of(request(solver=Choice("sparsegpt", {"damping": -1})))
    for ask in (dry_run, prune):
        with pytest.raises(BadRequest, match="cannot hold block:2x1"):
            ask(request(solver=GPT, pattern=Pattern.parse("block:2x1"), arch="", data=""), Listener())


def test_how_a_solver_is_written():
    """A flag, a setting or a recipe; null takes a recipe's solver away; options given beside the flag are not lost."""
    Path("recipe.yaml").write_text("solver: {name: sparsegpt, damping: 0.05}\n", encoding="utf-8")
    file = Path("recipe.yaml")
    assert resolve(PruneRecipe).solver is None
    assert resolve(PruneRecipe, file=file).solver == Choice("sparsegpt", {"damping": 0.05})
    assert resolve(PruneRecipe, file=file, settings=["solver=null"]).solver is None
    given = resolve(PruneRecipe, settings=["solver.damping=0.05"], flags={"solver": "sparsegpt"})
    assert given.solver == Choice("sparsegpt", {"damping": 0.05})
    with pytest.raises(BadRequest, match="names no strategy"):
        resolve(PruneRecipe, settings=["solver.damping=0.05"])
