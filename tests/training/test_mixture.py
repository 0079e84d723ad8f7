"""Scales of several students; `test_cohort.py` has what they do in a training."""

from __future__ import annotations

import numpy as np
import torch

from ackd.training.mixture import Scales


def test_scales_go_on_where_the_students_are_and_not_where_they_were_saved() -> None:
    here, elsewhere = Scales(3, (2,), torch.device("cpu")), Scales(3, (2,), torch.device("meta"))
    chosen, losses = np.array([True, False]), torch.tensor([2.0, 4.0])
    here("logits", losses, losses, 5, chosen)
    elsewhere.load_state_dict(here.state_dict())
    assert elsewhere.state_dict()["sums"]["logits"].device.type == "meta"
    assert elsewhere.state_dict()["seen"]["logits"].tolist() == [1.0, 0.0]
    there = torch.ones(2, device="meta")
    assert elsewhere("logits", there, there, 5, chosen).device.type == "meta"
