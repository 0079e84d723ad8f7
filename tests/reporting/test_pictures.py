"""What is read from a run, computed from it and drawn, against plain computations."""

from __future__ import annotations

import itertools
import math
import statistics as plain
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ackd.errors import InputError
from ackd.reporting import comparison, pictures, trends
from ackd.reporting import comparison_pictures as versus
from ackd.reporting.comparison import compare, pareto_front
from ackd.reporting.statistics import Interval
from ackd.runs.log import Cell, Decision, open_run, read_decisions, read_table

OLD = "episode,seed,decision,steps_done,selection,reward,reward_loss,reward_score,label_loss,error\r\n"


def decision(episode: int = 0, done: int = 10, reward: float = 0.1, **known: object) -> Decision:
    values: dict[str, object] = {"seed": 7, "reward_loss": 0.5, "reward_score": 0.8, "label_loss": 0.4, "error": ""}
    values |= {"weights": {"logits": 1.0, "hidden": 0.0}, "losses": {"logits": 2.0}}
    return Decision(episode=episode, steps_done=done, reward=reward, **(values | known))  # type: ignore[arg-type]


def cell(task: str, policy: str, seed: int, score: float | None, reward: float = 0.5, flops: float = 1.0) -> Cell:
    return Cell(task, policy, seed, "accuracy", score, 90.0, reward, flops, 2.0)


def is_png(content: bytes) -> bool:
    return content.startswith(b"\x89PNG\r\n\x1a\n") and content.endswith(b"IEND\xaeB`\x82")


def texts(figure: Figure) -> list[str]:
    return [label.get_text() for legend in figure.legends for label in legend.get_texts()]


# Reading


def test_decisions_of_the_earlier_format_tell_their_types(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text(OLD + "0,1,0,5,logits+hidden,0.1,0.5,0.7,0.6,\r\n0,1,1,10,labels,0.2,,,nan,divergence\r\n")
    first, second = read_decisions(path)
    assert first.weights == {"logits": 1.0, "hidden": 1.0}
    assert second.weights == {"logits": 0.0, "hidden": 0.0}
    assert first.losses == {}
    assert (first.reward_loss, second.reward_loss, second.reward_score) == (0.5, None, None)
    assert math.isnan(second.label_loss)
    assert second.error == "divergence"


def test_decisions_tell_weights_and_losses(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    header = OLD.rstrip() + ",select/logits@2,select/hidden,loss/logits@2,loss/hidden\n"
    path.write_text(header + "0,1,0,5,logits@2,0.1,0.5,0.7,0.6,,0.25,0.0,3.5,\n")
    (row,) = read_decisions(path)
    assert row.weights == {"logits@2": 0.25, "hidden": 0.0}
    path.write_text(OLD.rstrip() + ",select/labels,select/logits\n0,1,0,5,logits,0.1,0.5,0.7,0.6,,4.0,0.25\n")
    (with_labels,) = read_decisions(path)
    assert list(with_labels.weights.items()) == [("labels", 4.0), ("logits", 0.25)]
    assert row.losses == {"logits@2": 3.5}


@pytest.mark.parametrize(
    "torn", ["0,1,1,10,lab", "0,1,1,10,labels,0.2,0.5,0.7,0.6,", "\udcff".encode("utf-8", "surrogateescape")]
)
def test_a_torn_last_line_is_none(tmp_path: Path, torn: str | bytes) -> None:
    path = tmp_path / "decisions.csv"
    tail = torn if isinstance(torn, bytes) else torn.encode()
    path.write_bytes(OLD.encode() + b"0,1,0,5,logits,0.1,0.5,0.7,0.6,\r\n" + tail)
    assert [row.steps_done for row in read_decisions(path)] == [5]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (b"0,1,0,5,logits,abc,0.5,0.7,0.6,\n", r'line 2: reward is "abc": .* number'),
        (b"0,1,0,5,logits,inf,0.5,0.7,0.6,\n", r'line 2: reward is "inf": .* finite'),
        (b"0,1,0,-5,logits,0.1,0.5,0.7,0.6,\n", r'line 2: steps_done is "-5": .* 0'),
        (b"0,1,0,5,logits,0.1,0.5,0.7,0.6,\n\x00\x00\n", "line 3: 1 fields where the first line names 10"),
        (b"0,1,0,5,logits,0.1,0.5,0.7,0.6,\n0,1,\n", "line 3: 3 fields"),
        (b"0,1,0,5,\xff\xfe,0.1,0.5,0.7,0.6,\n", "line 2: not UTF-8"),
        (b'0,1,0,5,"log"its,0.1,0.5,0.7,0.6,\n', "line 2: "),
        (b"0,1,0,5," + b"x" * 200_000 + b",0.1,0.5,0.7,0.6,\n", "line 2: field larger"),
    ],
)
def test_garbage_is_named_by_file_and_line(tmp_path: Path, lines: bytes, words: str) -> None:
    path = tmp_path / "decisions.csv"
    path.write_bytes(OLD.encode() + lines)
    with pytest.raises(InputError, match=rf"^{path}, {words}"):
        read_decisions(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"line 1: no column episode, steps_done"):
        read_decisions(path)


def test_the_table_keeps_quoted_names(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    header = "task,policy,seed,metric,dev_score,teacher_score,reward,flops_share,steps,seconds,error\n"
    path.write_text(header + '"a,b","c ""d""",1,accuracy,,90,-1,0.5,10,3.5,divergence\n')
    (row,) = read_table(path)
    assert (row.task, row.policy, row.score, row.teacher) == ("a,b", 'c "d"', None, 90.0)
    assert read_table(tmp_path / "none.csv") == []


@pytest.mark.parametrize("content", ["{", "[]", "\x00", "[" * 100_000])
def test_damaged_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        open_run(tmp_path)


# Computing


def test_episodes_are_told_apart_when_they_take_turns() -> None:
    rows = [decision(1, 10, 0.5), decision(0, 10, 0.25), decision(1, 20, 1.0), decision(0, 20, 0.5), decision(2, 10)]
    found = trends.episodes_of([*rows, decision(3, 10, -1.0, error="divergence")], 20)
    assert [(one.number, one.returned, one.complete, one.diverged) for one in found] == [
        (0, 0.75, True, False),
        (1, 1.5, True, False),
        (2, 0.1, False, False),
        (3, -1.0, True, True),
    ]


def test_rows_that_a_budget_cut_are_laid_on_everybodys() -> None:
    rows = [
        *(decision(0, 10, 0.25), decision(0, 14, 0.0, reward_score=None, weights={"a": 1.0})),
        *(decision(0, 20, 0.5, weights={"a": 0.0}), decision(1, 10, 0.25), decision(1, 20, 1.0, weights={"a": 0.5})),
    ]
    found = trends.episodes_of(rows, 20)
    both = trends.aligned(found)
    assert [[one.steps_done for one in episode.decisions] for episode in both] == [[10, 14, 20]] * 2
    assert [one.returned for one in both] == [0.75, 1.25]
    assert both[0] == found[0]
    assert [one.reward for one in both[1].decisions] == [0.25, 0.0, 1.0]
    assert [one.reward_score for one in both[1].decisions] == [0.8, None, 0.8]
    np.testing.assert_allclose(trends.mean_weights(both, ["a"]), [[0.0, 0.75, 0.25]])
    np.testing.assert_allclose(trends.edges(both, 20), [0, 50, 70, 100])


def test_the_running_mean_and_its_quartiles() -> None:
    values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0]
    band = trends.running(values, 3)
    for place, middle in enumerate(band.middle):
        window = values[max(0, place - 2) : place + 1]
        assert middle == pytest.approx(plain.fmean(window))
        if len(window) > 1:
            low, _, high = plain.quantiles(window, n=4, method="inclusive")
            assert (band.low[place], band.high[place]) == pytest.approx((low, high))
    assert band.low[0] == band.high[0] == 3.0


def test_mean_weights_and_losses_skip_what_is_missing() -> None:
    rows = [
        decision(0, 10, weights={"a": 1.0, "b": 0.5}, losses={"a": 8.0}),
        decision(0, 20, weights={"a": 0.0, "b": 0.5}, losses={"b": 3.0}),
        decision(1, 10, weights={"a": 0.0, "b": 0.25}, losses={"b": 0.0}, label_loss=math.nan),
    ]
    found = trends.episodes_of(rows, 20)
    np.testing.assert_allclose(trends.mean_weights(found, ["a", "b"]), [[0.5, 0.0], [0.375, 0.5]])
    np.testing.assert_allclose(trends.edges(found, 20), [0, 50, 100])
    losses = trends.relative_losses(found, ["a", "b", "c"])
    assert list(losses) == ["labels", "a", "b"]  # nobody computed c
    assert losses["a"][0] == 8.0
    np.testing.assert_allclose(losses["a"][1], [1.0, np.nan])
    np.testing.assert_allclose(losses["b"][1], [np.nan, 1.0])  # 0 has no logarithm
    np.testing.assert_allclose(losses["labels"][1], [1.0, 1.0])


def test_what_was_measured_and_earned_stands_where_it_was_measured() -> None:
    rows = [decision(0, 10, 0.25, reward_loss=None, reward_score=None), decision(0, 15, 0.5, reward_score=0.75)]
    found = trends.episodes_of(rows, 20)
    band = trends.measured(found, 20, lambda d: d.reward_score)
    assert (band.x.tolist(), band.middle.tolist(), band.low.tolist()) == ([75.0], [0.75], [0.75])
    progress, sums = trends.accumulated(found[0], 20)
    assert (progress.tolist(), sums.tolist()) == ([75.0], [0.75])
    nothing = trends.measured(trends.episodes_of(rows[:1], 20), 20, lambda d: d.reward_score)
    assert len(nothing.x) == len(nothing.low) == 0


def test_the_pareto_front_is_what_no_point_beats() -> None:
    costs, scores = [60.0, 100, 96, 100, 80, 60], [92.0, 96, 95, 97, 91, 92]
    assert pareto_front(costs, scores) == [0, 5, 2, 3]
    rng = np.random.default_rng(0)
    xs, ys = rng.integers(0, 6, 30).tolist(), rng.integers(0, 6, 30).tolist()
    beaten = {
        i
        for i, j in itertools.permutations(range(30), 2)
        if xs[j] <= xs[i] and ys[j] >= ys[i] and (xs[j] < xs[i] or ys[j] > ys[i])
    }
    assert set(pareto_front(xs, ys)) == set(range(30)) - beaten


def test_scores_are_normalised_between_labels_and_teacher() -> None:
    cells = [cell("t", "labels", 0, 70), cell("t", "labels", 1, 80), cell("t", "all", 0, 90), cell("t", "all", 1, 82.5)]
    compared = compare(cells)
    np.testing.assert_allclose(compared.scores["all"], [[1.0], [0.5]])
    np.testing.assert_allclose(compared.scores["labels"].mean(), 0.0)
    without = compare(cells[2:])
    np.testing.assert_allclose(without.scores["all"], [[1.0], [82.5 / 90]])
    assert "share of the teacher's" in without.scale
    # labels alone as good as the teacher: no scale between them
    close = compare([cell("t", "labels", 0, 89.5), cell("t", "all", 0, 90)])
    np.testing.assert_allclose(close.scores["all"], [[1.0]])
    assert "share of the teacher's" in close.scale


def test_what_cannot_be_compared_is_left_out_by_name() -> None:
    cells = [cell(t, p, s, 80) for t in "xy" for p in ("all", "a") for s in (0, 1)]
    compared = compare(cells[:-1])
    assert compared.tasks == ["x"]
    assert compared.notes == ["y is left out of what is taken over tasks: not every policy has finished it."]
    whole = [*cells, *(cell(t, "bad", s, None if (t, s) == ("x", 0) else 80) for t in "xy" for s in (0, 1))]
    compared = compare(whole)
    assert list(compared.scores) == ["all", "a"]
    assert compared.notes == ["bad is left out of what is taken over tasks: a training of it diverged."]


def test_the_gap_to_the_oracle_pairs_seeds() -> None:
    cells = [
        cell("t", p, s, 80 + s - (3 if p == "a" else 0), reward=s - (p == "a"))
        for p in ("lookahead", "a")
        for s in range(4)
    ]
    scores, returns = comparison.oracle_gaps(compare(cells))
    assert scores == {"a": Interval(-3.0, -3.0, -3.0)}  # though seeds differ by as much
    assert returns == {"a": Interval(-1.0, -1.0, -1.0)}
    assert comparison.oracle_gaps(compare(cells[4:])) == ({}, {})
    assert comparison.improvements(compare(cells)) == {}


def test_the_probability_of_improvement_is_over_all() -> None:
    cells = [cell("t", p, s, 80 + s + (5 if p == "good" else 0)) for p in ("all", "good") for s in range(3)]
    assert comparison.improvements(compare(cells)) == {"good": Interval(1.0, 1.0, 1.0)}


# Drawing


def test_the_reward_curve_draws_returns_mean_and_band() -> None:
    returns = [0.1, 0.5, -1.0, 0.6, 0.7]
    band = trends.running(returns, 2)
    figure = pictures.reward_curve(returns, [False, False, True, False, False], band, 0.9)
    (axes,) = figure.axes
    alive, dead, mean, final = (line.get_xydata() for line in axes.lines)
    assert np.array_equal(alive, [[1, 0.1], [2, 0.5], [4, 0.6], [5, 0.7]])
    assert np.array_equal(dead, [[3, -1.0]])
    assert np.array_equal(mean, np.stack([np.arange(1, 6), band.middle], 1))
    assert np.array_equal(final, [[6, 0.9]])
    (area,) = (one for one in axes.collections if isinstance(one, PolyCollection))
    corners = {tuple(corner) for corner in np.round(np.asarray(area.get_paths()[0].vertices), 9).tolist()}
    assert {(x + 1, round(y, 9)) for x, y in zip(band.x, band.low, strict=True)} <= corners
    assert {(x + 1, round(y, 9)) for x, y in zip(band.x, band.high, strict=True)} <= corners
    assert texts(figure) == ["quartiles", "an episode", "diverged", "running mean", "trained policy"]
    assert is_png(pictures.png(figure))


def test_the_heat_map_holds_the_weights() -> None:
    table = np.array([[0.0, 0.5, 1.0], [np.nan, 2.0, 0.25]])
    figure = pictures.heat_maps(
        {"one": table, "two": table / 2}, ["logits", "$hidden_x$"], np.array([0.0, 40, 80, 100])
    )
    meshes = [
        mesh
        for axes in figure.axes
        for mesh in axes.collections
        if isinstance(mesh, QuadMesh) and axes.get_title(loc="left")
    ]
    values: list[trends.Array] = [np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan) for mesh in meshes]
    on = table > 0
    np.testing.assert_allclose(values[0][on], np.log2(table[on]))
    np.testing.assert_allclose(values[1][on], np.log2(table[on]) - 1)
    np.testing.assert_array_equal(np.isnan(values[0]), np.isnan(table))
    for mesh in meshes:  # grey is what is off, and nothing else
        colours = mesh.to_rgba(np.array([values[0][0, 0], -3.0, 0.0, 3.0]))
        assert tuple(colours[0]) == to_rgba(pictures.PALE)
        assert len({tuple(colour) for colour in colours}) == 4
    bar = figure.axes[-1]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0", "1/4", "1", "4", "8"]
    np.testing.assert_allclose(bar.get_yticks()[1:], [-2, 0, 2, 3])
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["one", "two"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["logits", "$hidden_x$"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["off", "0.5", "1", "2", "0.25"]
    assert is_png(pictures.png(figure))


def test_weights_beyond_the_scale_are_at_its_ends() -> None:
    indices = pictures.on_scale(np.array([0.0, 0.01, 0.125, 1.0, 8.0, 20.0, np.nan]))
    np.testing.assert_allclose(indices[1:6], [-3, -3, 0, 3, 3])
    assert indices[0] < -3
    assert np.isnan(indices[6])


def test_the_ends_of_episodes_are_drawn_beside_the_trained_policys() -> None:
    figure = pictures.reward_split_ends({"score": ([0.5, 0.7, 0.9], 0.95), "loss": ([0.4, 0.2], None)}, 2)
    score, loss = figure.axes
    assert [np.asarray(line.get_ydata()).tolist() for line in score.lines] == [
        [0.5, 0.7, 0.9], pytest.approx([0.5, 0.6, 0.8]), [0.95]
    ]  # fmt: skip
    assert np.asarray(score.lines[2].get_xdata()).tolist() == [4]
    assert len(loss.lines) == 2
    assert is_png(pictures.png(figure))


def test_losses_are_drawn_relative_and_logarithmic() -> None:
    curves = {"labels": (0.5, np.array([1.0, 0.5, np.nan])), "a": (20.0, np.array([np.nan, 1.0, 0.001]))}
    figure = pictures.loss_curves(curves, np.array([30.0, 60, 100]))
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    drawn = {str(line.get_label()): np.asarray(line.get_ydata()) for line in axes.lines[1:]}
    assert list(drawn) == ["labels (from 0.5)", "a (from 20)"]
    np.testing.assert_array_equal(drawn["a (from 20)"], curves["a"][1])
    assert is_png(pictures.png(figure))


def test_the_cost_bars_are_shares_of_the_whole() -> None:
    amounts = {"time": {"student": 3.0, "teacher": 1.0, "agent": 0.0}, "FLOPs": {"student": 1.0, "teacher": 1.0}}
    figure = pictures.cost_split(amounts)
    (axes,) = figure.axes
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches if isinstance(bar, Rectangle)]
    assert bars == [(0.0, 75.0), (0.0, 50.0), (75.0, 25.0), (50.0, 50.0)]
    assert texts(figure) == ["student", "teacher"]
    assert is_png(pictures.png(figure))


def test_each_seed_is_a_dot_beside_mean_and_interval() -> None:
    scores = {"labels": [70.0, 72.0, 74.0], "all": [80.0, 81.0, 85.0]}
    intervals = {name: comparison.mean_interval(values) for name, values in scores.items()}
    one = versus.TaskScores("t", "accuracy", 90.0, scores, intervals, {"labels": 60.0, "all": 100.0}, ("labels", "all"))
    figure = versus.policy_scores([one])
    (axes,) = figure.axes
    dots = [np.asarray(line.get_xdata()).tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == list(scores.values())
    means = [np.asarray(line.get_xydata()).tolist() for line in axes.lines if line.get_marker() == "D"]
    assert means == [[[72.0, 0]], [[82.0, 1]]]
    assert axes.lines[0].get_xdata() == [90.0, 90.0]
    assert intervals["labels"].low >= 70.0
    assert intervals["labels"].high <= 74.0
    assert texts(figure) == ["teacher", "a seed", "mean, 95 % interval"]


def test_the_front_is_drawn_through_the_points_on_it() -> None:
    means = {"labels": 70.0, "all": 80.0, "bad": 60.0}
    intervals = {name: Interval(mean, mean - 1, mean + 2) for name, mean in means.items()}
    scores = {name: [mean] for name, mean in means.items()}
    flops = {"labels": 60.0, "all": 100.0, "bad": 90.0}
    one = versus.TaskScores("t", "f1", 90.0, scores, intervals, flops, ("labels", "all"))
    figure = versus.score_against_flops([one, one, one])
    assert len(figure.axes) == 3
    front, *points = figure.axes[0].lines
    assert np.array_equal(front.get_xydata(), [[60, 70], [100, 80]])
    assert [np.asarray(point.get_xydata()).tolist() for point in points] == [[[60, 70]], [[100, 80]], [[90, 60]]]
    bars = [np.asarray(bar.get_segments()).tolist() for bar in figure.axes[0].collections]  # type: ignore[attr-defined]
    assert bars == [[[[60, 69], [60, 72]]], [[[100, 79], [100, 82]]], [[[90, 59], [90, 62]]]]
    assert texts(figure) == ["Pareto front", "labels", "all", "bad"]
    assert is_png(pictures.png(figure))


def test_profiles_fall_from_all_to_none() -> None:
    cells = [cell("t", p, s, v + 5 * s) for p, v in (("labels", 70), ("all", 80)) for s in range(3)]
    compared = compare(cells)
    thresholds, curves = comparison.profiles(compared)
    figure = versus.performance_profiles(thresholds, curves)
    for line, name in zip(figure.axes[0].lines, ("labels", "all"), strict=False):
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert (y[0], y[-1]) == (100.0, 0.0)
        np.testing.assert_allclose(y, [100 * (compared.scores[name] > threshold).mean() for threshold in x])


def test_the_style_stays_in_the_picture() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    pictures.png(pictures.reward_within(np.array([50.0, 100.0]), np.array([0.1, 0.2])))
    assert dict(matplotlib.rcParams) == before


def test_long_names_are_shortened_only_while_they_differ() -> None:
    assert pictures.shortened(["labels", "a/very/long/path/to/the/policy"]) == ["labels", "a/very/long/…to/the/policy"]
    names = [f"preset:dynamickd-data:keep={keep}:score=entropy" for keep in (0.1, 0.5)]
    assert pictures.shortened(names[:1]) == ["preset:dynam…score=entropy"]
    assert pictures.shortened(names) == ["…ta:keep=0.1:score=entropy", "…ta:keep=0.5:score=entropy"]
    same = [f"one/{'x' * 9}/{middle}/{'x' * 30}" for middle in ("a", "b")]
    assert pictures.shortened(same) == same


def test_a_name_in_another_script_is_drawn() -> None:
    figure = versus.interval_rows({"x": {"策略 $\\frac{": Interval(0.5, 0.4, 0.6)}}, 0.5)
    assert is_png(pictures.png(figure))
