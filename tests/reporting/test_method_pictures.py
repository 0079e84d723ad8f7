"""Pictures of methods that decide nothing: what is drawn is what was given."""

from __future__ import annotations

import numpy as np
from matplotlib.patches import Rectangle

from ackd.reporting import method_pictures, pictures


def test_a_grid_has_its_numbers_and_a_frame_around_the_best() -> None:
    table = np.array([[70.0, 71.5, np.nan], [72.25, 69.0, 75.125]])
    figure = method_pictures.grid(table, (1.0, 4.0), (0.1, 0.5, 0.9), (1, 2), ("temperature", "weight", "score"))
    axes = figure.axes[0]
    said = {(text.get_position()[0], text.get_position()[1]): text.get_text() for text in axes.texts}
    assert said[0.5, 0.5] == "70.00"
    assert said[2.5, 0.5] == "X"  # a training that diverged
    assert said[2.5, 1.5] == "75.12"
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [frame.get_xy() for frame in frames] == [(2, 1)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.1", "0.5", "0.9"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "4"]
    assert figure.axes[1].get_position().height < axes.get_position().height  # the bar of colours
    assert pictures.png(figure).startswith(b"\x89PNG")


def test_a_grid_of_which_nothing_is_known_is_drawn_too() -> None:
    for value in (np.nan, 50.0):
        figure = method_pictures.grid(np.full((1, 1), value), (1.0,), (0.5,), None, ("a", "b", "c"))
        assert not figure.axes[0].patches
        assert pictures.png(figure).startswith(b"\x89PNG")


def test_curves_keep_their_look_in_every_panel() -> None:
    x = np.arange(3.0)
    panels = {"loss": {"one": (x, x + 1), "two": (x, x + 2)}, "score": {"two": (x, x - 1)}}
    figure = method_pictures.curves_side_by_side(panels, "round", {"score": ("target", 0.5)})
    left, right = figure.axes
    assert [axes.get_title(loc="left") for axes in (left, right)] == ["loss", "score"]
    assert np.array_equal(left.lines[1].get_ydata(), x + 2)
    assert [line.get_label() for line in right.lines] == ["target", "two"]
    assert right.lines[1].get_color() == left.lines[1].get_color() != left.lines[0].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two", "target"]
    assert pictures.png(figure).startswith(b"\x89PNG")
