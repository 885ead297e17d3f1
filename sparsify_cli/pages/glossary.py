"""What each number is called on the page and what it means, in words a newcomer understands.

A number without an entry keeps its own name and the definition its finding carries.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """Label and plain meaning of one metric."""

    label: str
    meaning: str


GLOSSARY: dict[str, Entry] = {
    "sparsity": Entry("Sparsity", "share of the prunable weights (convolution and linear) that are exactly zero"),
    "sparsity_total": Entry("Sparsity of everything", "share of all parameters that are zero, biases and batch norm included"),
    "nonzeros": Entry("Weights left", "parameters that are not zero"),
    "parameters": Entry("Parameters", "all numbers the model stores, zeros included"),
    "bytes_dense": Entry("Stored plainly", "size of the file when every weight is written, zeros included"),
    "bytes_packed": Entry("Stored packed", "size of our packed file, which leaves the zeros out"),
    "bytes_onnx": Entry("As ONNX", "size of the ONNX file, zeros included"),
    "bytes_disk": Entry("Stored plainly", "size of the file when every weight is written, zeros included"),
    "macs": Entry("Multiply-adds", "of one sample in convolutions and linear layers, zeros included"),
    "macs_nonzero": Entry("Multiply-adds without zeros", "those of weights that are not zero; ordinary kernels compute the others, too"),
    "latency_ms": Entry("Time per batch", "median wall-clock time of one forward pass on this machine"),
    "latency_ratio": Entry("Time against dense", "1 means as fast as the dense model"),
    "accuracy": Entry("Accuracy", "share of the answers on test data that are right"),
    "routing": Entry("Accuracy with the dense model's help", "the least sure 10 % of samples are answered by the dense model"),
    "routing_share": Entry("Share that needs the dense model", "least share of samples, the least sure, it has to answer for its accuracy"),
    "perplexity": Entry("Perplexity", "among how many equally likely tokens the model seems to choose at each place; lower is better"),
    "token_agreement": Entry("Same next token", "share of places at which the likeliest token is the dense model's"),
    "rmse": Entry("Root mean square error", "typical size of an error, large ones counting more; lower is better"),
    "mae": Entry("Mean absolute error", "typical size of an error; lower is better"),
    "r2": Entry("Explained variance (R²)", "100 % is perfect, 0 % as good as always answering the mean"),
    "output_shift": Entry("Moved from the dense model", "typical change of its numbers, relative to their size"),
    "nll": Entry("Surprise (NLL)", "how unlikely the model found the right answers; lower is better"),
    "brier": Entry("Brier score", "squared distance between stated probabilities and the truth; lower is better"),
    "ece": Entry("Calibration error (ECE)", "typical gap between stated confidence and actual accuracy; lower is better"),
    "ece_equal_mass": Entry("Calibration error, equal mass", "as the calibration error, with as many samples in every bin"),
    "classwise_ece": Entry("Calibration error of all classes", "typical gap between each class's stated probability and its frequency"),
    "smooth_ece": Entry("Smooth calibration error", "as the calibration error, without bins; lower is better"),
    "risk_coverage": Entry("Risk over coverages (AURC)", "share of wrong answers among the surest ones, averaged over how many are given"),
    "selective_accuracy": Entry("Accuracy where it is sure", "accuracy on the 80 % of samples the model is most confident about"),
    "f1": Entry("F1", "balance of finding a class and not naming it wrongly, mean over classes; of an attribute, of yes"),
    "confidence_shift": Entry(
        "Confidence in its answers", "mean probability of the predicted class; its change is how much surer the model sounds"
    ),
    "confidence_shift_true": Entry(
        "Belief in the truth", "mean probability of the true class; its change is how much more the truth is believed"
    ),
    "group_rates_tpr": Entry("True positive rate", "of those who are a yes, the share the model finds"),
    "group_rates_fpr": Entry("False positive rate", "of those who are not a yes, the share the model calls one"),
    "group_rates_fnr": Entry("False negative rate", "of those who are a yes, the share the model misses"),
    "group_rates_selection": Entry("Selection rate", "share of a group that the model answers with yes"),
    "fairness_gaps_demographic_parity": Entry("Gap in selection", "most minus least often answered with yes among the groups; 0 is equal"),
    "fairness_gaps_equal_opportunity": Entry("Gap in finding", "best minus worst true positive rate among the groups; 0 is equal"),
    "fairness_gaps_equalised_odds": Entry(
        "Gap in errors", "wider of the gaps in true and false positive rate among the groups; 0 is equal"
    ),
    "auc": Entry("AUC", "chance that a sample of a class is ranked above one of another class; 50 % is guessing"),
    "uncertainty": Entry("Uncertainty", "share of answers that the model gave with low confidence"),
    "churn": Entry("Changed answers", "share of the answers on test data that differ from the dense model's"),
    "exemplars": Entry("Exemplars", "samples on which compression changed the answer"),
    "exemplars_uncertain": Entry("Exemplars the dense model was unsure about", "share of them, beside the share among all samples"),
    "exemplars_lift": Entry("Concentration among unsure samples", "above 1, the dense model's doubt foretells which answers change"),
    "threshold_bias": Entry(
        "Rare answers given, against true ones", "1 means the rarer value is predicted as often as it is true; below 1, too rarely"
    ),
    "interdependence": Entry(
        "Answers that follow from others", "how far each predicted attribute can be told from the other predicted attributes"
    ),
    "bias_amplification": Entry(
        "Amplified bias", "how much more than is true a predicted attribute falls to the group that training linked it with; 0 is faithful"
    ),
    "cooccurrence": Entry(
        "Answers that go with a group", "how much more often the group that training links with an answer gets it than everyone else"
    ),
    "worst_group": Entry("Worst group", "accuracy of the group that is served worst"),
    "group_gap": Entry("Gap to the best group", "how far a group's accuracy is below that of the best group"),
    "accuracy_forget_before": Entry("Forget set, before", "accuracy on what should be forgotten, before unlearning"),
    "accuracy_forget_after": Entry("Forget set, after", "accuracy on what should be forgotten, afterwards; lower means more was forgotten"),
    "accuracy_retain_before": Entry("Retain set, before", "accuracy on the training data that stays, before unlearning"),
    "accuracy_retain_after": Entry("Retain set, after", "accuracy on the training data that stays, afterwards"),
    "accuracy_test_others_before": Entry(
        "Test set, classes that stay, before", "accuracy on test data of classes that were not forgotten, before"
    ),
    "accuracy_test_others_after": Entry(
        "Test set, classes that stay, after", "accuracy on test data of classes that were not forgotten, afterwards"
    ),
    "accuracy_test_before": Entry("Test set, before", "accuracy on the test data before unlearning"),
    "accuracy_test_after": Entry("Test set, after", "accuracy on the test data afterwards"),
    "forecast_precision": Entry("Foretold that changed", "share of the answers foretold to be at risk that changed"),
    "forecast_recall": Entry("Changed that were foretold", "share of the answers that changed that were foretold to be at risk"),
    "forecast_lift": Entry("Lift", "how many times more of the changed answers were foretold than of all; 1 = the forecast says nothing"),
    "forecast_bias_precision": Entry(
        "Bias foretold that grew", "share of the pairs foretold to grow whose amplification grew beyond noise"
    ),
    "forecast_bias_recall": Entry("Bias that grew and was foretold", "share of the pairs that grew beyond noise that were foretold"),
    "forecast_bias_lift": Entry("Lift for bias", "how many times more of the pairs that grew were foretold than of all pairs"),
    "forecast_bias": Entry("Order of bias", "rank correlation of foretold risk and change of bias; 1 = the order was foretold, 0 = not"),
}


def label(name: str) -> str:
    """What a metric is called on the page."""
    return GLOSSARY[name].label if name in GLOSSARY else name.replace("_", " ")


def meaning(name: str, definition: str = "") -> str:
    """What a metric means: the glossary's words, else the finding's own definition."""
    return GLOSSARY[name].meaning if name in GLOSSARY else definition
