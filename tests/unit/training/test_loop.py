"""The loop: schedule, boundaries, stopping, refusing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.errors import BadData, BadRequest, Diverged, Interrupted
from sparsify_cli.objectives.cross_entropy import CrossEntropy
from sparsify_cli.regimes.fixed import Fixed
from sparsify_cli.training.loop import _BatchLoss, check_fit, interruptible, train
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from sparsify_cli.values.samples import Samples


@dataclass(frozen=True)
class Diary(Regime):
    """Steps as Fixed does and writes down what is called."""

    lines: list[str] = field(default_factory=list)

    def start(self, run: Run) -> None:
        """Write it down."""
        del run
        self.lines.append("start")

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """Write down step, rate and mode."""
        rates = {group["lr"] for group in run.optimizer.param_groups}
        self.lines.append(f"{run.step} {rates} {run.model.training}")
        return Fixed().step(run, loss)

    def finish(self, run: Run) -> None:
        """Write it down."""
        del run
        self.lines.append("finish")


def data(n: int = 12) -> Samples:
    """So many samples of 3 features in 2 classes, from a fixed generator."""
    inputs = torch.randn(n, 3, generator=torch.Generator().manual_seed(5))
    return Samples(inputs, (inputs[:, 0] > 0).long(), tuple(str(i) for i in range(n)))


def run_of(total: int = 4, model: nn.Module | None = None) -> Run:
    """A run of a small linear classifier with two parameter groups."""
    torch.manual_seed(0)
    model = model or nn.Linear(3, 2)
    optimizer = torch.optim.SGD([{"params": [p]} for p in model.parameters()], lr=9.0)
    return Run(model, model, optimizer, lambda loss: loss.backward(), total=total, per_epoch=3)


def go(run: Run, regime: Regime | None = None, samples: Samples | None = None, **options: object) -> None:
    """Train with a rate of 1 / (step + 1) and batches of 4."""
    chosen: dict[str, object] = {"batch_size": 4, "seed": 0, "learning_rate": lambda step, _: 1 / (step + 1), **options}
    loss = CrossEntropy().prepare(nn.Module)
    train(run, regime or Fixed(), loss, data() if samples is None else samples, **chosen)  # type: ignore[arg-type]


def test_order_of_calls() -> None:
    """Start once, each step at its own rate in train mode whatever after_step does, finish once."""
    run, diary = run_of(3), Diary()
    seen: list[tuple[int, bool]] = []

    def after(run: Run, value: Tensor) -> None:
        seen.append((run.step, value.requires_grad))
        run.model.eval()

    go(run, diary, after_step=after)
    assert diary.lines == ["start", "0 {1.0} True", "1 {0.5} True", f"2 {{{1 / 3}}} True", "finish"]
    assert seen == [(1, False), (2, False), (3, False)]


def test_a_resumed_run_does_not_start_again() -> None:
    """At step 2 of 3 only that step and the finish remain; at step 3 only the finish."""
    run, diary = run_of(3), Diary()
    run.step = 2
    go(run, diary)
    assert diary.lines == [f"2 {{{1 / 3}}} True", "finish"]
    go(run, diary)
    assert diary.lines[2:] == ["finish"]


def test_training_learns() -> None:
    """Sixty steps on a separable problem at least halve the loss."""
    run, values = run_of(60), []
    go(run, samples=data(40), learning_rate=lambda *_: 0.5, after_step=lambda _, value: values.append(value.item()))
    assert len(values) == 60
    assert sum(values[-10:]) < sum(values[:10]) / 2


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_that_work_ahead_change_nothing(workers: int) -> None:
    """Batches, what is drawn to prepare them, and so the weights are those without threads, also of a run that is resumed."""

    def noisy(batch: Samples, seed: int) -> Samples:
        noise = torch.randn(batch.inputs.shape, generator=torch.Generator().manual_seed(seed))
        return replace(batch, inputs=batch.inputs + noise)

    finals = []
    for threads in (0, workers):
        run = run_of(12)
        run.total = 5
        go(run, prepare=noisy, workers=threads)
        run.total = 12
        go(run, prepare=noisy, workers=threads)
        finals.append(run.model.weight.detach().clone())  # type: ignore[union-attr]
    assert torch.equal(*finals)


def test_what_after_step_draws_changes_nothing() -> None:
    """Random numbers used between steps leave training, dropout included, as it was."""
    finals = []
    for draws in (0, 3):
        torch.manual_seed(7)
        run = run_of(5, nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2)))
        go(run, after_step=lambda *_, draws=draws: torch.rand(draws))
        finals.append(run.model[0].weight.detach().clone())  # type: ignore[index]
    assert torch.equal(*finals)


def test_ctrl_c_stops_at_a_boundary() -> None:
    """A real SIGINT after step 2 ends the run there, with an exit code of 130, and the handler is put back."""
    run, before = run_of(10), signal.getsignal(signal.SIGINT)

    def after(run: Run, value: Tensor) -> None:
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="after step 2 of 10") as caught:
        go(run, after_step=after)
    assert (run.step, caught.value.exit_code) == (2, 130)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_inside_a_step_lets_the_step_end() -> None:
    """A signal in the middle of a backward pass takes effect after that step."""
    run = run_of(10)

    def backward(loss: Tensor) -> None:
        if run.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        loss.backward()

    run.backward = backward
    with pytest.raises(Interrupted, match="after step 4"):
        go(run)
    assert run.step == 4


def test_ctrl_c_during_the_last_step_changes_nothing() -> None:
    """There is nothing left to stop: the run finishes as it would have."""
    run, diary = run_of(2), Diary()
    go(run, diary, stop_requested=lambda: run.step == 2)
    assert (run.step, diary.lines[-1]) == (2, "finish")


def test_second_ctrl_c_raises_at_once() -> None:
    """The first is a flag, the second a KeyboardInterrupt."""
    with interruptible() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_interruptible_in_a_thread_is_a_flag_that_stays_down() -> None:
    """Outside the main thread nothing is caught and nothing fails."""
    seen: list[bool] = []

    def work() -> None:
        with interruptible() as asked:
            seen.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_stop_before_the_first_step() -> None:
    """Nothing has happened: no start, so that resuming starts properly."""
    run, diary = run_of(3), Diary()
    with pytest.raises(Interrupted, match="after step 0 of 3"):
        go(run, diary, stop_requested=lambda: True)
    assert diary.lines == []


def test_a_non_finite_loss_leaves_the_weights() -> None:
    """The step is named and no weight has moved."""
    run, samples = run_of(8), data()
    samples.inputs[7] = float("nan")
    weights: list[Tensor] = [run.model.weight.detach().clone()]  # type: ignore[operator]
    with pytest.raises(Diverged, match=r"loss is nan at step (\d) of 8.*lower --lr"):
        go(run, samples=samples, after_step=lambda run, _: weights.append(run.model.weight.detach().clone()))
    assert len(weights) == run.step + 1
    assert torch.equal(run.model.weight, weights[-1])  # type: ignore[arg-type]


def test_weights_that_overflow_at_the_last_step_are_found() -> None:
    """A finite loss with an infinite gradient does not end as success."""
    run = run_of(1)

    def backward(_: Tensor) -> None:
        for parameter in run.model.parameters():
            parameter.grad = torch.full_like(parameter, float("inf"))

    run.backward = backward
    with pytest.raises(Diverged, match="After 1 steps 2 tensors hold non-finite"):
        go(run)


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (Samples(torch.ones(4, 5), torch.zeros(4, dtype=torch.int64), tuple("abcd")), r"inputs of shape \(5,\)"),
        (Samples(torch.ones(4, 3), torch.tensor([0, 1, 2, 7]), tuple("abcd")), "from 0 to 7 but the model has 2 outputs"),
        (Samples(torch.ones(4, 3), torch.tensor([0, 1, -1, 1]), tuple("abcd")), "from -1 to 1"),
        (Samples(torch.ones(0, 3), torch.zeros(0, dtype=torch.int64), ()), "no training samples"),
    ],
)
def test_data_that_does_not_fit_is_refused(samples: Samples, sentence: str) -> None:
    """Shapes and labels are checked before the first step, in words."""
    with pytest.raises(BadData, match=sentence):
        go(run_of(), samples=samples)


def test_outputs_must_be_rows_of_logits() -> None:
    """A network that gives no [n, outputs] is no classifier; the mode of the model is left alone."""
    model = nn.Flatten(0)
    with pytest.raises(BadData, match=r"outputs have shape \(6,\)"):
        check_fit(model, data())
    assert model.training


def test_requests_that_train_nothing_are_refused() -> None:
    """Zero steps, and single-sample batches for batch norm."""
    with pytest.raises(BadRequest, match="0 steps"):
        go(run_of(0))
    with pytest.raises(BadRequest, match="batch norm"):
        go(run_of(3, nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))), batch_size=1)


def test_fixed_makes_masks_true_before_the_first_forward() -> None:
    """A masked weight is zero already when the first loss is computed."""
    run = run_of(1)
    run.masks = MaskSet({"weight": torch.tensor([[False, True, True], [True, True, True]])})
    first: list[float] = []

    def loss(model: nn.Module, batch: Samples) -> Tensor:
        first.append(run.model.weight[0, 0].item())  # type: ignore[index]
        return CrossEntropy().prepare(nn.Module)(model, batch)

    train(run, Fixed(), loss, data(), batch_size=4, seed=0, learning_rate=lambda *_: 0.1)
    assert first == [0.0]


class Odd(nn.Module):
    """A classifier that gives a tuple in train mode, and counts what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, inputs: Tensor) -> object:
        """Logits, or a pair of them."""
        self.seen += len(inputs)
        logits = self.body(inputs)
        return (logits, logits) if self.training else logits


def test_train_mode_is_tried_too() -> None:
    """A network that gives a tuple only in train mode is refused before training; its buffers, modes and the seed are left alone."""
    model = Odd()
    model.body.eval()
    torch.manual_seed(5)
    with pytest.raises(BadData, match=r"gives a tuple in train mode"):
        check_fit(model, data())
    assert (float(model.seen), model.training, model.body.training, torch.initial_seed()) == (0.0, True, False, 5)


def test_parts_of_a_batch_of_texts_sum_to_it() -> None:
    """The loss is a mean over tokens: texts of one token count less than those of six, in parts as in the whole."""
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))
    inputs = torch.randint(1, 9, (8, 6))
    targets = torch.randint(0, 9, (8, 6))
    targets[:4, 1:] = -100
    texts = Samples(inputs, targets, tuple(map(str, range(8))), classes=tuple("abcdefghi"), texts=True)
    run = Run(model, model, torch.optim.SGD(model.parameters(), lr=1.0), lambda loss: loss.backward(), total=9, per_epoch=3)
    whole, parts = (_BatchLoss(run, CrossEntropy().prepare(nn.Module), texts, count, 8, 1) for count in (1, 4))
    assert len(parts.parts) == 4
    with torch.no_grad():
        assert float(sum(part() for part in parts.parts)) == pytest.approx(float(whole()), rel=1e-5)
