from __future__ import annotations

import pytest

from ackd.errors import InputError
from ackd.knowledge import layer_map


@pytest.mark.parametrize(
    ("rule", "depths", "expected"),
    [
        ("uniform", (6, 12), [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
        ("skip", (6, 12), [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9)]),  # PKD-skip: 1, 3, 5, 7, 9
        ("skip", (6, 24), [(0, 3), (1, 7), (2, 11), (3, 15), (4, 19)]),
        ("last", (6, 12), [(0, 6), (1, 7), (2, 8), (3, 9), (4, 10)]),
        ("last", (3, 12), [(0, 9), (1, 10)]),
        ("uniform", (4, 4), [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ("0:1, 2:5,1:5", (3, 6), [(0, 1), (2, 5), (1, 5)]),
        ("0:1,0:3", (3, 6), [(0, 1), (0, 3)]),
        ("0:3,1:3", (3, 6), [(0, 3), (1, 3)]),
        ("0:0,3:1", (4, 2), [(0, 0), (3, 1)]),  # named pairs may go to a shallower teacher
    ],
)
def test_layer_maps(rule: str, depths: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert list(layer_map(rule, *depths)) == expected


@pytest.mark.parametrize(
    ("rule", "depths", "words"),
    [
        ("unifrom", (3, 6), ["'unifrom'", "did you mean 'uniform'"]),
        ("0:6", (3, 6), ["teacher layer 6", "6 layers", "0 to 5"]),
        ("3:1", (3, 6), ["student layer 3", "3 layers", "0 to 2"]),
        ("0:1,1:3,0:1", (3, 6), ["the pair 0:1 twice", "name each pair once"]),
        ("uniform", (6, 3), ["6 layers", "3", "name the pairs"]),
        ("last", (1, 6), ["'last'", "use 'uniform'"]),
        ("skip", (1, 6), ["'skip'", "use 'uniform'"]),
        ("0:1,", (3, 6), ["unknown layer map", "'0:1,'"]),
        ("-1:-1", (3, 6), ["unknown layer map", "'-1:-1'"]),
    ],
)
def test_bad_layer_maps_are_refused(rule: str, depths: tuple[int, int], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        layer_map(rule, *depths)
    for word in words:
        assert word in str(caught.value)
