"""The quick preset on the embedded data shows what real images would: CIFAR-10 gives 82, 87 and 82 here."""

import pytest

from experiments import cifar10
from experiments.report.files import read_records


@pytest.mark.slow
def test_the_embedded_set_has_easy_and_hard_samples(tmp_path):
    arguments = ["--dataset", "synthetic", "--preset", "quick", "--methods", "original", "retrain", "twin"]
    assert cifar10.main([*arguments, "--output", str(tmp_path)]) == 0
    records = read_records(tmp_path)
    pooled = {record["method"]: record for record in records if record["target_class"] == "all"}
    assert pooled["original"]["forget_accuracy"] > 99
    assert 75 <= pooled["retrain"]["forget_accuracy"] <= 90
    assert 82 <= pooled["floor_gold_gold"]["agreement"] <= 92
    assert 75 <= pooled["twin"]["predictor_auc"] <= 88
