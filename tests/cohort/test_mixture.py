"""Scales of many students; `test_cohort.py` has what they do in a training."""

from __future__ import annotations

import torch

from ackd.cohort.mixture import Scales


def test_scales_go_on_where_the_students_are_and_not_where_they_were_saved() -> None:
    here, elsewhere = Scales(3, 2, torch.device("cpu")), Scales(3, 2, torch.device("meta"))
    chosen = torch.tensor([True, False])
    here("logits", torch.tensor([2.0, 4.0]), chosen)
    elsewhere.load_state_dict(here.state_dict())
    kept = elsewhere.state_dict()
    assert [kept[part]["logits"].device.type for part in ("sums", "seen")] == ["meta", "meta"]
    assert elsewhere("logits", torch.ones(2, device="meta"), chosen.to("meta")).device.type == "meta"
