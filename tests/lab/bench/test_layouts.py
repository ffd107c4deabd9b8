"""Layouts and precisions are compared as they are named."""

import pytest
import torch

from mutualnet_det.lab.bench import layouts


def test_compares_what_it_names(training_cfg, monkeypatch):
    taken = []

    class Steps(layouts.Steps):
        def take(self, batch, iteration):
            weight = self.trainer.model.backbone.bottom_up.features[0][0].weight
            is_last = weight.is_contiguous(memory_format=torch.channels_last)
            taken.append((self.trainer._dtype, is_last))
            super().take(batch, iteration)
            # As if channels-last took half the time, and bfloat16 a tenth.
            return (1.0 if is_last else 2.0) * (0.1 if taken[-1][0] == torch.bfloat16 else 1.0)

    monkeypatch.setattr(layouts, "Steps", Steps)
    pairs = layouts.compare_layouts(training_cfg, 1)
    assert [(pair.name.split(" at ")[0], pair.ratio) for pair in pairs[1:]] == [
        ("training in float32, channels-last against contiguous", pytest.approx(0.5)),
        ("training in bfloat16, channels-last against contiguous", pytest.approx(0.5)),
        ("training in bfloat16, against float32", pytest.approx(0.1)),
    ]
    assert pairs[0].name.startswith("inference at 1.00x64 in float32") and pairs[0].ratio > 0
