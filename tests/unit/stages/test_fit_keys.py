"""Loading tensors into a module: exact, or one sentence with the nearest name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsify_cli.errors import KeyMismatch
from sparsify_cli.stages.fit_keys import fitting_names, lent, loaded
from sparsify_cli.values.checkpoint import Checkpoint, Source
from tests.strategies import tiny_cnn


def from_file(tensors):
    """A checkpoint as if read from a file."""
    return Checkpoint(tensors, Source("model.pt", ""))


def equal(one, other):
    """The same names and bits."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("prefix", ["", "model.", "net.", "backbone.", "model.net.", "student.", "a.b.c."])
def test_a_wrapper_prefix_is_removed(prefix):
    """Keys with one prefix too many load; the module comes back in eval mode with exactly these bits."""
    given = tiny_cnn(1).state_dict()
    module = loaded(tiny_cnn(2).train(), from_file({prefix + name: tensor for name, tensor in given.items()}))
    assert equal(module.state_dict(), given)
    assert not any(part.training for part in module.modules())


def test_a_wrapper_prefix_is_added():
    """Keys of the inner network load into a module that wraps it."""

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = tiny_cnn(2)

    given = tiny_cnn(1).state_dict()
    assert equal(loaded(Wrapper(), from_file(given)).net.state_dict(), given)


class Tied(nn.Module):
    """A language model's habit: the last layer is the embedding, and files hold one of the two names."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids).mean(1))


@pytest.mark.parametrize("way", [loaded, lent])
@pytest.mark.parametrize("name", ["embed.weight", "head.weight", "model.embed.weight", "model.head.weight"])
def test_one_name_of_a_tied_weight_is_enough(way, name):
    """Whichever of the two names the file has, under a prefix or not; both of the module's are it."""
    weight = torch.randn(5, 3)
    module = way(Tied(), from_file({name: weight}))
    assert torch.equal(module.embed.weight, weight) and torch.equal(module.head.weight, weight)


class Writing(nn.Module):
    """Two large layers, one of a kind that writes to its own weight, and an embedding that does."""

    class Clamped(nn.Linear):
        """Keeps its weights small."""

        def forward(self, x):
            self.weight.data.clamp_(-0.01, 0.01)
            return super().forward(x)

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(600, 512, max_norm=0.5)
        self.plain, self.clamped, self.small = nn.Linear(512, 600), self.Clamped(600, 512), nn.Linear(512, 3)

    def forward(self, ids):
        return self.small(self.clamped(self.plain(self.embed(ids).mean(1))))


def test_what_is_lent_is_the_checkpoints_own_memory_where_nobody_writes():
    """The large plain layer is not copied; running the network changes no bit of the checkpoint."""
    given = Writing().state_dict()
    before = {name: tensor.clone() for name, tensor in given.items()}
    module, expected = lent(Writing(), from_file(given)), loaded(Writing(), from_file(given))
    own = {name for name, tensor in module.state_dict().items() if tensor.data_ptr() == given[name].data_ptr()}
    assert own == {"plain.weight"}
    ids = torch.arange(60).view(6, 10)
    with torch.no_grad():
        assert torch.equal(module(ids), expected(ids))
    assert equal(given, before)


def test_what_is_lent_has_the_modules_number_type():
    """A half-precision checkpoint is converted, and so copied."""
    given = {name: tensor.half() for name, tensor in Writing().state_dict().items()}
    assert lent(Writing(), from_file(given)).plain.weight.dtype == torch.float32


def test_an_old_counter_may_be_missing():
    """num_batches_tracked, which checkpoints before torch 0.4.1 lack, changes no output."""
    given = {name: tensor for name, tensor in tiny_cnn(1).state_dict().items() if not name.endswith("num_batches_tracked")}
    module = loaded(tiny_cnn(2), from_file(given))
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in given.items())


def test_two_networks_in_one_file_are_not_chosen_between():
    """A student beside its teacher: the teacher's tensors have no place, and none is dropped in silence."""
    given = tiny_cnn(1).state_dict()
    both = {f"{who}.{name}": tensor for who in ("student", "teacher") for name, tensor in given.items()}
    with pytest.raises(KeyMismatch, match=r"have no place in it \(teacher\."):
        loaded(tiny_cnn(2), from_file(both))


def test_a_prefix_that_would_make_two_names_one_is_not_removed():
    """`model.head.weight` beside `head.weight` stays two tensors."""
    given = tiny_cnn(1).state_dict()
    both = {**{f"model.{name}": tensor for name, tensor in given.items()}, "head.weight": given["head.weight"]}
    assert fitting_names(both, given).keys() == both.keys()


def test_names_that_already_fit_stay():
    """A network whose own layer is called `model` is not renamed."""
    module = nn.Module()
    module.model = nn.Linear(2, 2)
    assert list(fitting_names(module.state_dict(), module.state_dict())) == ["model.weight", "model.bias"]


def test_a_missing_and_an_extra_name():
    """Both are counted and named, the nearest one too."""
    given = tiny_cnn().state_dict()
    given["hed.weight"] = given.pop("head.weight")
    with pytest.raises(KeyMismatch) as caught:
        loaded(tiny_cnn(), from_file(given))
    for part in (
        "model.pt",
        "1 tensor is missing (head.weight; nearest to head.weight is hed.weight)",
        "1 has no place in it (hed.weight)",
    ):
        assert part in str(caught.value)


def test_many_are_counted_and_few_listed():
    """An unrelated checkpoint is one short sentence, not a page."""
    with pytest.raises(KeyMismatch, match=r"12 have no place in it \(a0, a1, a2, \.\.\.\)") as caught:
        loaded(tiny_cnn(), from_file({f"a{i}": torch.zeros(1) for i in range(12)}))
    assert len(str(caught.value)) < 400


def test_another_shape():
    """The first tensor with another shape, both shapes, and how many there are."""
    given = tiny_cnn().state_dict()
    given["head.weight"] = torch.zeros(5, 8)
    with pytest.raises(KeyMismatch, match=r"1 tensor has another shape, first head\.weight.*\(5, 8\) in the checkpoint and \(3, 8\)"):
        loaded(tiny_cnn(), from_file(given))


def test_a_refused_module_is_untouched():
    """Nothing is half-loaded."""
    module, given = tiny_cnn(1), tiny_cnn(2).state_dict()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    del given["head.bias"]
    with pytest.raises(KeyMismatch):
        loaded(module, from_file(given))
    assert equal(module.state_dict(), before)
