"""A new classifier: which layer it is, what is drawn anew, and features that are the network's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparsify_cli.errors import BadRequest, Infeasible
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.verbs import FinetuneRecipe
from sparsify_cli.stages.classifier import featured, head_of, probe, require_transferable, with_classifier
from sparsify_cli.stages.resolve import build_architecture
from sparsify_cli.stages.subject import Subject
from sparsify_cli.values.checkpoint import Checkpoint, Source, Spec
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples

INPUTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Branched(nn.Module):
    """Two heads of equal width; the one that is declared first gives the outputs, after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.aside = nn.Linear(8, 3), nn.Linear(8, 3)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())

    def forward(self, inputs):
        """Logits; the other head is only computed."""
        hidden = self.body(inputs)
        self.aside(hidden)
        return self.head(hidden)


class Scaled(Branched):
    """The outputs are not those of a layer."""

    def forward(self, inputs):
        """Twice the head's outputs."""
        return 2 * super().forward(inputs)


def samples_of(inputs=INPUTS, classes=3):
    """Samples with labels 0, 1, ... in turn."""
    return Samples(inputs, torch.arange(len(inputs)) % classes, tuple(str(i) for i in range(len(inputs))))


def test_the_layer_whose_outputs_are_the_networks():
    """Not the last declared, not another of the same width."""
    assert head_of(Branched().eval(), INPUTS) == "head"


def test_no_layer_gives_the_outputs():
    """A name has to be given; then it is taken, and a layer that is none is refused."""
    module = Scaled().eval()
    with pytest.raises(BadRequest, match=r"Name it: --head"):
        head_of(module, INPUTS)
    assert head_of(module, INPUTS, named="head") == "head"
    with pytest.raises(BadRequest, match="no linear layer 'body'"):
        head_of(module, INPUTS, named="body")


def test_shared_weights_are_refused():
    """A new classifier would change the other layer."""
    module = Branched().eval()
    module.aside.weight = module.head.weight
    with pytest.raises(BadRequest, match="shares its weights"):
        head_of(module, INPUTS)


def test_features_are_the_inputs_of_the_classifier():
    """The classifier of the features is the network, bit for bit; a second pass gives the same; ids and targets stay."""
    torch.manual_seed(1)
    module = Branched()
    module(INPUTS)  # statistics of its own
    samples = samples_of()
    once, again = featured(module, "head", samples), featured(module, "head", samples)
    assert torch.equal(once.inputs, again.inputs) and once.ids == samples.ids and torch.equal(once.targets, samples.targets)
    alone = probe(module, "head")
    assert torch.equal(alone(once.inputs), module.eval()(INPUTS))
    assert sorted(alone.state_dict()) == ["head.bias", "head.weight"]


def test_a_classifier_that_is_not_the_end_is_not_trained_alone():
    """What comes after it would be left out."""
    with pytest.raises(Infeasible, match="not the network's"):
        featured(Scaled(), "head", samples_of())


@pytest.fixture
def subject(monkeypatch):
    """A pruned `mlp` of 64-20-10 on data of `classes` classes, 10 by default."""
    spec = Spec("mlp", {"inputs": 6, "hidden": "20", "classes": 3})
    tensors = dict(build_architecture(spec).state_dict())
    weights = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 2}
    masks = MaskSet({name: torch.rand(w.shape, generator=torch.Generator().manual_seed(2)) > 0.5 for name, w in weights.items()})
    made = Subject(Checkpoint(tensors, Source("", "")), masks, architecture=spec)
    monkeypatch.setattr(Subject, "samples", lambda self, split: samples_of(classes=5))
    return made


def test_only_the_classifier_is_new(subject):
    """More outputs than before, dense, the same numbers for the same seed; every other tensor and mask is untouched."""
    after, name = with_classifier(subject, head="", seed=3)
    same, _ = with_classifier(subject, head="", seed=3)
    other, _ = with_classifier(subject, head="", seed=4)
    new = after.checkpoint.tensors[f"{name}.weight"]
    assert new.shape == (5, 20) and torch.equal(new, same.checkpoint.tensors[f"{name}.weight"])
    assert not torch.equal(new, other.checkpoint.tensors[f"{name}.weight"])
    rest = [key for key in subject.checkpoint.tensors if not key.startswith(f"{name}.")]
    assert all(after.checkpoint.tensors[key] is subject.checkpoint.tensors[key] for key in rest)
    assert after.masks == MaskSet({key: mask for key, mask in subject.masks.items() if not key.startswith(f"{name}.")})
    assert after.module()(INPUTS).shape == (5, 5)


def test_fewer_outputs_than_before(subject):
    """A classifier of 5, then again of 5 from one of 3: the architecture knows the new shapes each time."""
    wide = replace(subject, architecture=Spec("mlp", {"inputs": 6, "hidden": "20", "classes": 9}))
    wide = wide.changed(Checkpoint(dict(build_architecture(wide.architecture).state_dict()), Source("", "")), MaskSet())
    after, _ = with_classifier(wide, head="", seed=0)
    assert after.module()(INPUTS).shape == (5, 5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"head": "fc"}, "--head goes with --transfer"),
        ({"transfer": "linear", "augment": "flip"}, "does not go with --augment flip"),
        ({"transfer": "linear", "regime": Choice("gmp")}, "does not go with --regime gmp"),
        ({"transfer": "full", "objective": Choice("distill")}, "no teacher"),
        ({"transfer": "linear", "objective": Choice("distill"), "teacher": "t"}, "does not go with --objective distill"),
    ],
)
def test_refusals(flags, said):
    """One sentence each, before anything is opened."""
    with pytest.raises(BadRequest, match=said):
        require_transferable(FinetuneRecipe(**flags))


class NameHead(Branched):
    """A classifier under a name that modules have themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.name = nn.Linear(8, 3)

    def forward(self, inputs):
        """Logits of it."""
        return self.name(self.body(inputs))


def test_a_classifier_of_any_name_is_trained_alone():
    """`name` too."""
    module = NameHead().eval()
    assert head_of(module, INPUTS) == "name"
    assert torch.equal(probe(module, "name")(featured(module, "name", samples_of()).inputs), module(INPUTS))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Linear(6, 3), "one linear layer"),
        (nn.Sequential(nn.Linear(6, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))), "parametrization"),
    ],
)
def test_classifiers_that_cannot_be_replaced(module, said):
    """A sentence that says so, not one about keys."""
    with pytest.raises(BadRequest, match=said):
        head_of(module.eval(), INPUTS)


def test_classes_of_every_split_count(subject, monkeypatch):
    """A label that only validation has gets an output."""
    monkeypatch.setattr(Subject, "samples", lambda self, split: samples_of(classes=5 if split == "validation" else 3))
    after, name = with_classifier(subject, head="", seed=0)
    assert len(after.checkpoint.tensors[f"{name}.weight"]) == 5


def test_the_networks_own_new_classifier_teaches_nothing():
    """`--teacher self` is refused."""
    with pytest.raises(BadRequest, match="no teacher"):
        require_transferable(FinetuneRecipe(transfer="full", objective=Choice("distill"), teacher="self"))
