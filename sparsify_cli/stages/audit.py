"""The audit of an erasure: what an auditor asks of the network before, after, and (where one is given) trained anew without the samples.

    membership     can forgotten samples be told from unseen ones of the same mixture of classes, by six attacks
    distance       between the answers of two networks, over the samples forgotten, retained and unseen
    profile        the same of the sorted probabilities of the truth: how much is known, whichever samples are not
    relearn        passes until the samples cost no more than before they were forgotten

Everything is measured on networks as they run, batch norm in eval mode; nothing is fitted on what it is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.maths.closeness import answer_distance, profile_distance, relative_distance, similarity
from sparsify_cli.maths.intervals import Estimate
from sparsify_cli.maths.membership import ATTACKS, LEAST, among, attacks, mixed_alike, strongest
from sparsify_cli.stages.evidence import Predict
from sparsify_cli.stages.measure import predict
from sparsify_cli.stages.outcome import Table
from sparsify_cli.stages.tables import interval, said
from sparsify_cli.training.forgetting import draw
from sparsify_cli.training.relearning import SHOWN as RELEARNED
from sparsify_cli.training.relearning import Relearning, mean_loss, most_passes
from sparsify_cli.values.choices import alike, choices
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

OVER = 0.4
"""AUC below which forgotten samples stand out by being unfamiliar, if the interval agrees."""
SHOWN = 5000
"""Most retained samples that distances are measured on."""
RELEARN = "Relearn time"
CALLED = {"forget": "forgotten", "retain": "retained", "unseen": "unseen, mixed like the forgotten", "test": "all test samples"}
FAR = ("How far the answers moved", "How far the probabilities of the truth moved, whichever samples are wrong")
TOWARDS = {
    "before": "from before",
    "reference": "from trained anew",
    "before_reference": "from trained anew, before",
    "between": "between two trained anew",
}
WHEN = {"before": "before", "after": "after", "reference": "trained anew"}
ATTACK = (
    "Chance that a forgotten sample looks more like a training sample than an unseen one, to an attacker who sees {}; 0.5 = cannot tell."
)


@dataclass(frozen=True, eq=False)
class Audit:
    """What is compared.

    Args:
        request: the samples.
        unseen: the test split.
        networks: `before`, `after` and, where there are such, `reference`: the network trained anew; `second`: another one.
        seed: of draws.
        reference_masks: of the network trained anew.
        ask: how networks are asked.
    """

    request: Request
    unseen: Samples
    networks: Mapping[str, nn.Module]
    seed: int = 0
    reference_masks: MaskSet = field(default_factory=MaskSet)
    ask: Predict = predict

    def findings(self) -> Iterator[Finding]:
        """Every number of the audit."""
        splits = self._splits()
        said_by = {
            when: {name: self.ask(module, samples) for name, samples in splits.items() if len(samples)}
            for when, module in self.networks.items()
        }
        for when, answers in ((when, answers) for when, answers in said_by.items() if when in WHEN):
            yield from _membership(when, answers, self.alike[1], self.seed)
        yield from _distances(said_by)
        yield from self._weights()
        yield from self._relearning()

    def _splits(self) -> dict[str, Samples]:
        retain = draw(self.request.retain, SHOWN, self.seed)
        return {"forget": self.request.forget, "unseen": self.alike[0], "retain": retain, "test": self.unseen}

    @cached_property
    def alike(self) -> tuple[Samples, Tensor]:
        """Unseen samples mixed like the forgotten, and where those are that have a class in common with them."""
        there, wanted = alike(self.unseen.targets, self.request.forget.targets)
        unseen, forgotten = mixed_alike(there, wanted, self.seed)
        return self.unseen.take(unseen), forgotten

    def _weights(self) -> Iterator[Finding]:
        if "reference" not in self.networks:
            return
        flat = {when: torch.cat([p.detach().reshape(-1).cpu() for p in module.parameters()]) for when, module in self.networks.items()}
        if len({len(one) for one in flat.values()}) > 1:
            return
        text = "Distance of the weights to those trained anew, relative to that before; says something of convex models only."
        value = relative_distance(flat["after"], flat["before"], flat["reference"])
        yield Finding(name="relative_weight_distance", value=value, better="lower", definition=text)

    def _relearning(self) -> Iterator[Finding]:
        forget = draw(self.request.forget, RELEARNED, self.seed)
        target = mean_loss(self.networks["before"], forget)
        masks = {"after": self.request.masks, "reference": self.reference_masks}
        relearning = Relearning(seed=self.seed)
        found = {when: relearning.passes(self.networks[when], masks[when], forget, target) for when in masks if when in self.networks}
        yield from relearned(found, len(forget))


def relearned(passes: Mapping[str, int | None], n: int) -> Iterator[Finding]:
    """How long each network took to come back; where none did, that is no number.

    Args:
        passes: of the network `after` and of the `reference`; None = more than `most_passes`.
        n: forgotten samples that were shown.
    """
    text = (
        f"Passes over the forgotten samples (at most {RELEARNED}, drawn at random) until they cost no more than before they were forgotten"
    )
    least = None if all(one is None for one in passes.values()) else float(most_passes(n))
    for when, one in passes.items():
        yield Finding(
            name=f"relearn_passes_{when}", value=least if one is None else float(one), n=n, better="higher",
            definition=f"{text}; network {WHEN[when]}.", note="" if one is not None else f"more than {most_passes(n)}",
        )  # fmt: skip


def _membership(when: str, answers: Mapping[str, Predictions], comparable: Tensor, seed: int) -> Iterator[Finding]:
    sides = [(answers["forget"].logits[comparable], answers["forget"].targets[comparable])]
    sides += [(answers["unseen"].logits, answers["unseen"].targets)] if "unseen" in answers else []
    logits, targets = (torch.cat(part) for part in zip(*sides, strict=True))
    forgotten = torch.arange(len(targets)) < len(comparable)
    found, n = attacks(logits, targets, forgotten, seed), len(targets)
    if not found:
        few = (
            f"not enough data: {len(comparable)} forgotten and {n - len(comparable)} unseen of the same classes, {LEAST} of each are needed"
        )
        yield Finding(name=f"membership_{when}", value=None, n=n, note=few, definition=ATTACK.format("anything"))
        return
    surest, largest = strongest(found), max(found, key=lambda name: found[name].value)
    for name, estimate in found.items():
        yield _attack(f"membership_{name}_{when}", estimate, n, name, when)
    for called, name, why in (("membership", largest, "largest"), ("membership_surest", surest, "surest")):
        note = f"the {why} of {len(found)} attacks: {ATTACKS[name]}; interval for all of them together"
        yield _attack(f"{called}_{when}", among(found[name], len(found)), n, name, when, note=note)


def _attack(name: str, estimate: Estimate, n: int, attack: str, when: str, note: str = "") -> Finding:
    text = f"{ATTACK.format(ATTACKS[attack])} Network {WHEN[when]}."
    width = "Nadeau and Bengio 2003" if attack == "learned" else "DeLong et al. 1988"
    return Finding(
        name=name, value=estimate.value, low=estimate.low, high=estimate.high, n=n, definition=text, note=note,
        source=f"Yeom et al. 2018 and others, see the code; interval {width}",
    )  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """A way to tell how far apart two networks are in what they say about the same samples.

    Args:
        name: after `distance` and `similarity` in names of numbers.
        text: what it is.
        of: the number, and the ends of its interval where there is one.
    """

    name: str
    text: str
    of: Callable[[Predictions, Predictions], tuple[float, float | None, float | None]]


def _answers(one: Predictions, other: Predictions) -> tuple[float, float, float]:
    found = answer_distance(one.chances, other.chances)
    return found.value, found.low, found.high


def _profiles(one: Predictions, other: Predictions) -> tuple[float, None, None]:
    return profile_distance(_of_truth(one), _of_truth(other)), None, None


def _of_truth(answers: Predictions) -> Tensor:
    """Probability of every true answer."""
    rows, right = choices(answers.logits.double(), answers.targets)
    return torch.softmax(rows, dim=1).gather(1, right.unsqueeze(1)).squeeze(1)


MEASURES = (
    Measure("", "Mean share of the answer that differs (total variation)", _answers),
    Measure("_profile", "Mean difference of the sorted probabilities of the truth, so whichever samples are answered wrongly", _profiles),
)


def _distances(said_by: Mapping[str, Mapping[str, Predictions]]) -> Iterator[Finding]:
    for measure in MEASURES:
        for name in said_by["after"]:
            yield from _apart(measure, name, {when: answers[name] for when, answers in said_by.items()})


def _apart(measure: Measure, name: str, answers: Mapping[str, Predictions]) -> Iterator[Finding]:
    """By one measure, over one kind of samples: distances, and which network is the nearer one."""
    n, called = len(answers["after"]), f"{measure.name}_{name}"
    far = {when: measure.of(answers["after"], answers[when]) for when in ("before", "reference") if when in answers}
    pairs = {when: (one, f"the network after and the network {WHEN[when]}") for when, one in far.items()}
    if "reference" in far and "before" in answers:
        pairs["before_reference"] = measure.of(answers["before"], answers["reference"]), "the network before and the network trained anew"
    if "second" in answers:
        pairs["between"] = measure.of(answers["second"], answers["reference"]), "two networks trained anew: what chance does"
    for when, ((value, low, high), whose) in pairs.items():
        text = f"{measure.text} over {name} samples, between {whose}."
        yield Finding(name=f"distance{called}_{when}", value=value, low=low, high=high, unit="fraction", n=n, definition=text)
    if "reference" in far:
        nearer = similarity(far["before"][0], far["reference"][0])
        words = f"Distance to the network before, over that plus the one to the network trained anew, {name} samples; 1 = as trained anew."
        note = "never to be read without both distances" if nearer is not None else "all three answer alike"
        yield Finding(name=f"similarity{called}", value=nearer, unit="fraction", n=n, better="higher", definition=words, note=note)


def audit_tables(findings: tuple[Finding, ...]) -> tuple[Table, ...]:
    """The audit for people."""
    there = {f.name: f for f in findings}
    whens = [when for when in WHEN if f"membership_{when}" in there]
    attacked = [name for name in ATTACKS if f"membership_{name}_after" in there]
    rows = tuple((ATTACKS[name], *_attacked(there, name, whens)) for name in attacked)
    heads = ("the attacker sees", *(head for when in whens for head in (WHEN[when], *(("95 %",) if when == "after" else ()))))
    tables = [Table("Membership inference: AUC, 0.5 = cannot tell", heads, rows)] if rows else []
    again = tuple((WHEN[when], _passes(there[f"relearn_passes_{when}"])) for when in WHEN if f"relearn_passes_{when}" in there)
    far = (
        _distance_table(there, measure, title)
        for measure, title in zip(MEASURES, FAR, strict=True)
        if f"distance{measure.name}_forget_before" in there
    )
    return (*tables, *far, Table(RELEARN, ("network", "passes"), again))


def _distance_table(there: Mapping[str, Finding], measure: Measure, title: str) -> Table:
    """By one measure: of each kind of samples how far the network is from others."""
    far = [name for name in CALLED if f"distance{measure.name}_{name}_before" in there]
    towards = [when for when in TOWARDS if f"distance{measure.name}_{far[0]}_{when}" in there]
    columns = [f"distance{measure.name}_{{}}_{when}" for when in towards]
    columns += [f"similarity{measure.name}_{{}}"] if "reference" in towards else []
    lines = tuple((CALLED[name], *(said(there[column.format(name)]) for column in columns)) for name in far)
    heads = (*(TOWARDS[when] for when in towards), *(["similarity"] if "reference" in towards else []))
    return Table(title, ("samples", *heads), lines)


def _attacked(there: Mapping[str, Finding], name: str, whens: list[str]) -> Iterator[str]:
    """An attack's AUC on each network; on the one after with its interval."""
    for when in whens:
        found = there[f"membership_{name}_{when}"]
        yield said(found)
        if when == "after":
            yield interval(found)


def _passes(finding: Finding) -> str:
    return finding.note or f"{finding.value:g}"


def _is_reference_of(other: Finding, finding: Finding) -> bool:
    """Whether it is the surest attack on the network trained anew: what cannot be told from it is as forgotten as can be."""
    return (other.name, other.scope) == ("membership_surest_reference", finding.scope) and other.value is not None


def _by_chance(findings: tuple[Finding, ...]) -> Iterator[str]:
    """How the distance to the network trained anew compares with that between two such networks."""
    for apart in (f for f in findings if f.name == "distance_forget_between" and f.value is not None):
        far = next((f for f in findings if (f.name, f.scope) == ("distance_forget_reference", apart.scope)), None)
        if far is not None and far.value is not None:
            said_far = f"answers on the forgotten samples differ by {said(far)} from those of the network trained anew"
            at = "" if apart.scope == "all" else f" ({apart.scope.replace(':', ' ')})"
            yield f"{said_far}, and those of two networks trained anew by {said(apart)} from each other; nearer than that is chance{at}."


def _farther(findings: tuple[Finding, ...]) -> Iterator[str]:
    """Where the network was nearer to the one trained anew before it forgot."""
    now = {f.scope: f for f in findings if f.name == "distance_forget_reference"}
    for old in (f for f in findings if f.name == "distance_forget_before_reference" and f.value is not None):
        new = now[old.scope]
        if new.value is not None and new.value > (old.value or 0):
            at = "" if old.scope == "all" else f" ({old.scope.replace(':', ' ')})"
            yield f"on the forgotten samples the network trained anew was nearer before: {said(old)} of answers apart, now {said(new)}{at}."


def audit_notes(findings: tuple[Finding, ...]) -> Iterator[str]:
    """What a person should not miss."""
    yield from (*_by_chance(findings), *_farther(findings))
    for finding in findings:
        at = "" if finding.scope == "all" else f" ({finding.scope.replace(':', ' ')})"
        if finding.name == "membership_surest_after" and finding.value is not None and finding.high is not None and finding.low is not None:
            if finding.value < OVER and finding.high < 0.5:
                yield f"over-unlearning: forgotten samples stand out as less familiar than unseen ones (AUC {finding.value:.3f}){at}."
            elif finding.low > 0.5:
                beside = "".join(f"; network trained anew {f.value:.3f}" for f in findings if _is_reference_of(f, finding))
                yield f"forgotten samples can still be told from unseen ones (AUC {finding.value:.3f}, {finding.note}{beside}){at}."
        if finding.name == "relearn_passes_after" and finding.value == 0:
            yield f"the forgotten samples cost no more than before: nothing has to be relearned{at}."
        if finding.name == "relearn_passes_after" and finding.value is None:
            passes = f"in {most_passes(finding.n)} passes no network came back"
            yield f"relearning tells nothing here: {passes} to what the forgotten samples cost before{at}."
