"""A killed run that goes on ends as one that was never killed."""

from __future__ import annotations

import copy
from collections.abc import Callable

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.values.run import Run
from tests.two_gradients import same, states, trained


def assert_ends_alike(fresh: Callable[[], Run], regime: Regime) -> None:
    """Check that from the state after any step the run ends in the same state to the bit, what `finish` does included."""
    whole = trained(fresh(), regime).state()
    for state in states(fresh(), regime)[:-1]:
        run = fresh()
        run.restore(copy.deepcopy(state))
        assert same(trained(run, regime).state(), whole)
