"""Which pairs a forecast is scored on."""

from __future__ import annotations

from sparsify_cli.stages.forecast import SCORES_OF_BIAS, _pairs, _scored
from sparsify_cli.values.report import Finding


def changed(scope: str, low: float) -> Finding:
    """A pair whose amplification changed by 0.1, with an interval."""
    return Finding(name="bias_amplification", value=0.1, low=low, high=0.3, of="change", scope=scope)


def test_bias_foretold_is_scored_by_what_grew_beyond_noise():
    """Twelve of twenty pairs are foretold; ten of these and two others grew: precision 10/12, recall 10/12, lift 10/12 over 12/20."""
    told = {"risks": [{"scope": f"class:{i}@sex=f", "risk": 1.0, "foretold": i < 12} for i in range(20)]}
    told["risks"].append({"scope": "class:unmeasured@sex=f", "risk": 1.0, "foretold": True})
    grew = {*range(10), 12, 13}
    findings = [changed(f"class:{i}@sex=f", 0.05 if i in grew else -0.05) for i in range(20)]
    found = {f.name: f for f in _scored(*_pairs(told, findings), SCORES_OF_BIAS, "pairs")}
    assert found["forecast_bias_precision"].value == 10 / 12 == found["forecast_bias_recall"].value
    assert abs(found["forecast_bias_lift"].value - (10 / 12) / (12 / 20)) < 1e-12
    assert found["forecast_bias_lift"].low < found["forecast_bias_lift"].value < found["forecast_bias_lift"].high


def test_few_pairs_have_no_score():
    """Three pairs that grew are not enough, and forecasts of older versions, without the mark, take the riskier half."""
    told = {"risks": [{"scope": f"class:{i}@sex=f", "risk": risk} for i, risk in enumerate((0.3, 0.2, 0.1, 0.0))]}
    at_risk, grew = _pairs(told, [changed(f"class:{i}@sex=f", 0.05) for i in range(3)])
    assert at_risk.flatten().tolist() == [True, True, False] and bool(grew.all())
    assert all(f.value is None and "not enough data" in f.note for f in _scored(at_risk, grew, SCORES_OF_BIAS, "pairs"))
