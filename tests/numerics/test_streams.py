from __future__ import annotations

import pytest
import torch

from ackd.numerics.streams import RngStreams, fork_rng


def draws(streams: RngStreams, count: int = 3) -> list[float]:
    with streams.dropping():
        return torch.rand(count).tolist()


def test_streams_do_not_touch_each_other_or_the_global_one() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2).tolist()
    torch.manual_seed(5)
    one, other = RngStreams(1), RngStreams(1)
    first = torch.rand(1).tolist()
    with one.initialising():
        torch.rand(100)
    one.order.random(50)
    assert draws(one) == draws(other)
    torch.manual_seed(99)
    assert draws(one) == draws(other)
    assert draws(RngStreams(2)) != draws(RngStreams(1))
    torch.manual_seed(5)
    torch.rand(1)
    draws(one)
    assert [*first, *torch.rand(1).tolist()] == expected


def test_no_generator_of_other_devices_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent may draw on a GPU where no student is."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("every GPU was seeded"))
    streams = RngStreams(7)
    with streams.initialising():
        first = torch.rand(3).tolist()
    # as torch.manual_seed would have it: runs of the past begin so
    assert first == pytest.approx([0.5849389433860779, 0.6193638443946838, 0.49384361505508423], abs=1e-7)
    assert draws(streams) == pytest.approx([0.06420791149139404, 0.46792614459991455, 0.1106976866722107], abs=1e-7)


def test_drawing_leaves_everybody_elses_stream_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("every GPU was seeded"))
    before = torch.get_rng_state()
    with fork_rng(7):
        drawn = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(7)))


def test_initialisation_begins_anew_and_dropout_goes_on() -> None:
    streams = RngStreams(3)
    values = []
    for _ in range(2):
        with streams.initialising():
            values.append(torch.rand(4).tolist())
    assert values[0] == values[1]
    whole = draws(RngStreams(3), 6)
    assert [*draws(streams), *draws(streams)] == whole


def test_state() -> None:
    streams = RngStreams(3)
    draws(streams)
    streams.order.random()
    state = streams.state_dict()
    expected = draws(streams), streams.order.random()
    again = RngStreams(8)
    again.load_state_dict(state)
    assert (draws(again), again.order.random()) == expected
