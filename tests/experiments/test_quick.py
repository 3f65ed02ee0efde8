"""The quick preset on the embedded data shows what it is for: easy and hard samples that the features tell apart."""

import json

import pytest

from experiments import cifar10


@pytest.mark.slow
def test_the_embedded_set_has_easy_and_hard_samples(tmp_path):
    arguments = ["--dataset", "synthetic", "--preset", "quick", "--methods", "original", "retrain", "twin"]
    assert cifar10.main([*arguments, "--output", str(tmp_path)]) == 0
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    pooled = {record["method"]: record for record in records if record["target_class"] == "all"}
    assert pooled["original"]["forget_accuracy"] > 99
    assert 75 <= pooled["retrain"]["forget_accuracy"] <= 92
    assert pooled["twin"]["predictor_auc"] > 60
