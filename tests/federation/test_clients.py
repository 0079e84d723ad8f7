"""Every example goes to one client; how alike the clients are follows from the rule."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ackd.errors import InputError
from ackd.federation.clients import ClientSplit, shares

WRITTEN = ["iid", "shards:1", "shards:3", "dirichlet:0.001", "dirichlet:0.5", "dirichlet:1e6", "dirichlet:1e-300"]


@given(
    written=st.sampled_from(WRITTEN),
    labels=st.lists(st.integers(0, 4), min_size=6, max_size=120),
    clients=st.integers(2, 40),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_a_split_is_a_partition(written: str, labels: list[int], clients: int, seed: int) -> None:
    rule, given_labels = ClientSplit.parse(written), np.array(labels)
    each = max(int(rule.number), 1) if rule.name == "shards" else 1
    if clients * each > len(labels):
        with pytest.raises(InputError, match="cannot share"):
            rule(given_labels, clients, np.random.default_rng(seed))
        return
    parts = rule(given_labels, clients, np.random.default_rng(seed))
    assert len(parts) == clients
    assert all(len(part) for part in parts)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all((np.diff(part) > 0).all() for part in parts)
    again = rule(given_labels, clients, np.random.default_rng(seed))
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))
    if rule.name != "shards":
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def purity(written: str, *, clients: int = 10, classes: int = 5) -> float:
    """The mean share of a client's commonest class, over several seeds."""
    labels = np.repeat(np.arange(classes), 2000 // classes)
    found = [
        shares(labels[part], classes).max()
        for seed in range(5)
        for part in ClientSplit.parse(written)(labels, clients, np.random.default_rng(seed))
    ]
    return float(np.mean(found))


def test_a_concentration_leads_from_one_class_to_all() -> None:
    alike, between, apart = (purity(f"dirichlet:{a}") for a in ("1e6", "1", "1e-6"))
    assert alike < 0.27  # 200 draws of 5 classes have a commonest one of about 0.23
    assert abs(alike - purity("iid")) < 0.02
    assert apart == 1.0  # 10 clients of 200 examples fill 5 classes of 400 exactly
    assert alike + 0.1 < between < apart - 0.1


def test_proportions_are_those_of_the_dirichlet_distribution() -> None:
    labels = np.repeat([0, 1], [3000, 1000])
    first = [  # of one client in ten there is always enough of each class
        shares(labels[ClientSplit("dirichlet", 4.0)(labels, 10, np.random.default_rng(seed))[0]], 2)[0]
        for seed in range(800)
    ]
    # Dir(4 p) with p = (0.75, 0.25): mean 0.75, variance 0.75 * 0.25 / (4 + 1), and of 400 draws from it a little more
    assert abs(np.mean(first) - 0.75) < 0.02
    variance = 0.75 * 0.25 / 5
    assert abs(np.var(first) - (variance + (0.75 * 0.25 - variance) / 400)) < 0.005


def test_a_client_of_s_shards_has_few_classes() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 60))
    for part in ClientSplit.parse("shards:2")(labels, 10, np.random.default_rng(1)):
        assert len(part) == 60
        assert len(set(labels[part].tolist())) <= 2  # each shard of 30 lies within a class of 60


def test_shards_of_values_are_ranges() -> None:
    values = np.random.default_rng(0).random(100).astype(np.float32)
    parts = ClientSplit.parse("shards:1")(values, 4, np.random.default_rng(1))
    ranges = sorted((values[part].min(), values[part].max()) for part in parts)
    assert all(high <= low for (_, high), (low, _) in pairwise(ranges))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("dirichle:1", "did you mean 'dirichlet'"),
        ("dirichlet:0", "concentration of 0"),
        ("dirichlet:-1", "concentration of -1"),
        ("dirichlet:nan", "concentration of nan"),
        ("dirichlet:inf", "concentration of inf"),
        ("dirichlet:", "concentration of 0"),
        ("dirichlet:much", "'much' where a number belongs"),
        ("dirichlet", "cannot be read"),
        ("shards", "cannot be read"),
        ("shards:1.5", "1.5 shards"),
        ("shards:0", "0 shards"),
        ("iid:3", "cannot be read"),
    ],
)
def test_bad_rules_are_refused(written: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        ClientSplit.parse(written)
    assert said in str(refused.value)


def test_unfit_data_is_refused() -> None:
    rng, labels = np.random.default_rng(0), np.zeros(10, np.int64)
    with pytest.raises(InputError, match="give at least 2 clients"):
        ClientSplit("iid")(labels, 1, rng)
    with pytest.raises(InputError, match="11 clients cannot share 10 examples"):
        ClientSplit("iid")(labels, 11, rng)
    with pytest.raises(InputError, match="fewer shards"):
        ClientSplit("shards", 3)(labels, 4, rng)
    with pytest.raises(InputError, match="a regression has none"):
        ClientSplit("dirichlet", 1.0)(labels.astype(np.float32), 2, rng)
