"""Figures by hand, and against slow implementations that share no line with ours."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from dicomnode.training import bootstrap, calibration, coverage, metrics
from dicomnode.training.bootstrap import Bootstrap


def answers(pictures=300, classes=4, seed=0):
    """Random truth and answers that are right more often than not."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, pictures)
    return truth, np.where(random.random(pictures) < 0.7, truth, random.integers(0, classes, pictures))


def slow_f1(truth, answer):
    """Macro-F1 by counting sets."""
    scores = []
    for one in sorted(set(truth)):
        is_so, said_so = {i for i, t in enumerate(truth) if t == one}, {i for i, a in enumerate(answer) if a == one}
        precision = len(is_so & said_so) / len(said_so) if said_so else 0
        recall = len(is_so & said_so) / len(is_so)
        scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0)
    return sum(scores) / len(scores)


def test_metrics_by_hand():
    """Two classes, 3 of 4 and 1 of 2 right."""
    confusion = metrics.confusion_matrix(np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 0]), 2)
    assert confusion.tolist() == [[3, 1], [1, 1]]
    assert metrics.precision(confusion) == pytest.approx([0.75, 0.5])
    assert metrics.recall(confusion) == pytest.approx([0.75, 0.5])
    assert metrics.f1(confusion) == pytest.approx([0.75, 0.5])
    assert metrics.macro(metrics.f1(confusion), confusion) == pytest.approx(0.625)
    assert metrics.accuracy(confusion) == pytest.approx(4 / 6)


def test_macro_leaves_out_classes_without_pictures():
    """A class that the data does not have does not pull the mean down."""
    confusion = metrics.confusion_matrix(np.array([0, 1]), np.array([0, 1]), 3)
    assert metrics.macro(metrics.f1(confusion), confusion) == 1


@pytest.mark.parametrize("seed", range(5))
def test_f1_against_sets(seed):
    """The same macro-F1 comes out of counted sets."""
    truth, answer = answers(seed=seed)
    confusion = metrics.confusion_matrix(truth, answer, 4)
    assert metrics.macro(metrics.f1(confusion), confusion) == pytest.approx(slow_f1(truth.tolist(), answer.tolist()))


def test_merged_classes_are_the_classes_renamed_before():
    """Adding rows and columns up is the same as counting with other names."""
    truth, answer = answers()
    found, names = metrics.merged(metrics.confusion_matrix(truth, answer, 4), list("abcd"), {"b": "bd", "d": "bd"})
    rename = np.array([0, 1, 2, 1])
    assert names == ["a", "bd", "c"]
    assert found.tolist() == metrics.confusion_matrix(rename[truth], rename[answer], 3).tolist()
    stacked, _ = metrics.merged(np.stack([np.eye(4), np.ones((4, 4))]), list("abcd"), {"b": "bd", "d": "bd"})
    assert stacked[1].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]


def test_wilson():
    """Against the limits that Newcombe 1998 gives for 81 of 263, and 0 and all of 20."""
    figure = metrics.wilson(81, 263)
    assert (figure.low, figure.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert (metrics.wilson(0, 20).low, metrics.wilson(0, 20).high) == pytest.approx((0, 0.1611), abs=1e-4)
    assert metrics.wilson(20, 20).low == pytest.approx(1 - 0.1611, abs=1e-4)


def test_auroc():
    """Pairs in the right order are counted, ties half."""
    truth = np.array([True, True, False, False])
    assert metrics.auroc(truth, np.array([0.9, 0.4, 0.4, 0.1])) == pytest.approx(3.5 / 4)
    assert metrics.auroc(~truth, np.array([0.9, 0.4, 0.4, 0.1])) == pytest.approx(0.5 / 4)
    assert math.isnan(metrics.auroc(np.array([True]), np.array([0.5])))


def test_weighted_auroc_counts_a_picture_as_often_as_it_was_drawn():
    """Each draw is the plain AUROC of the pictures drawn, pair by pair."""
    random = np.random.default_rng(1)
    positive, score = random.random(40) < 0.4, random.integers(0, 8, 40) / 8
    weights = next(Bootstrap([""] * 40, 30).weights())
    found = metrics.weighted_auroc(positive, score, weights)
    for row, area in zip(weights.astype(int), found, strict=True):
        drawn = [(p, s) for p, s, n in zip(positive, score, row, strict=True) for _ in range(n)]
        pairs = [(a > b) + (a == b) / 2 for p, a in drawn if p for q, b in drawn if not q]
        assert area == pytest.approx(sum(pairs) / len(pairs))


def test_roc_curve_has_the_area_of_auroc():
    """The trapezoids under the curve, ties included, are the Mann-Whitney statistic."""
    random = np.random.default_rng(2)
    positive, score = random.random(200) < 0.3, random.integers(0, 30, 200) / 30
    false, true = metrics.roc_curve(positive, score)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(metrics.auroc(positive, score))


def test_bootstrap_interval_of_a_proportion():
    """For 80 of 100 right the draws give the interval of the binomial distribution, 0.72 to 0.88."""
    figure = Bootstrap([""] * 100, 4000).figure(bootstrap.proportion((np.arange(100) < 80).astype(float)))
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.8, 0.72, 0.88), abs=0.015)


def test_bootstrap_repeats_itself():
    """The same seed draws the same, whatever the size of a round; another seed draws otherwise."""
    truth, answer = answers()
    count = bootstrap.confusions(truth, answer, 4)
    drawn = [Bootstrap([""] * truth.size, 50, seed).draw({"": count})[""][1] for seed in (3, 3, 4)]
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert drawn[0].sum(axis=(1, 2)).tolist() == [300] * 50


def test_rounds_do_not_change_the_draws(monkeypatch):
    """Draws in rounds of a few are the draws of one round."""
    once = np.concatenate(list(Bootstrap(["a", "", "a", "b"], 20).weights()))
    monkeypatch.setattr(bootstrap, "_ROUND", 12)
    assert np.array_equal(np.concatenate(list(Bootstrap(["a", "", "a", "b"], 20).weights())), once)


def test_persons_are_drawn_whole():
    """Pictures of one person come and go together; those of nobody known are units of their own."""
    draws = Bootstrap(["ann", "", "bob", "ann", "", "bob"], 500)
    assert (draws.units, draws.named) == (4, 2)
    weights = np.concatenate(list(draws.weights()))
    assert np.array_equal(weights[:, 0], weights[:, 3])
    assert np.array_equal(weights[:, 2], weights[:, 5])
    assert not np.array_equal(weights[:, 1], weights[:, 4])
    assert ((weights[:, 0] + weights[:, 1] + weights[:, 2] + weights[:, 4]) == 4).all()


def test_one_person_alone_has_an_interval():
    """Pictures that all carry one name (anonymised ones do) are drawn for themselves: no interval without width."""
    figure = Bootstrap(["anonymous"] * 100, 500).figure(bootstrap.proportion((np.arange(100) < 80).astype(float)))
    assert figure.low < 0.78
    assert figure.high > 0.82


def test_intervals_by_person_are_wider_where_pictures_repeat():
    """Ten pictures of each person, all right or all wrong: a tenth of the information, a wider interval."""
    persons = [f"p{number // 10}" for number in range(400)]
    right = np.repeat(np.random.default_rng(0).random(40) < 0.7, 10).astype(float)
    mean = bootstrap.proportion(right)
    by_person, by_picture = Bootstrap(persons, 2000).figure(mean), Bootstrap([""] * 400, 2000).figure(mean)
    assert (by_person.high - by_person.low) / (by_picture.high - by_picture.low) == pytest.approx(10**0.5, rel=0.15)


def slow_ece(confidence, right):
    """ECE by a loop over the definition of Guo et al."""
    error = 0.0
    for m in range(1, 16):
        inside = [i for i, p in enumerate(confidence) if (m - 1) / 15 < p <= m / 15]
        if inside:
            gap = sum(right[i] for i in inside) / len(inside) - sum(confidence[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(gap)
    return error


def test_ece():
    """Honest probabilities have nearly none, ones that are too sure by 0.1 have 0.1; a loop counts the same."""
    random = np.random.default_rng(5)
    confidence = random.uniform(0.3, 0.9, 20_000)
    honest, proud = random.random(20_000) < confidence, random.random(20_000) < confidence - 0.1
    once = np.ones((1, 20_000))
    for right, expected in ((honest, 0.0), (proud, 0.1)):
        found = calibration.ece(confidence, right)(once)[0]
        assert found == pytest.approx(expected, abs=0.012)
        assert found == pytest.approx(slow_ece(confidence.tolist(), right.tolist()))
    bins = calibration.reliability(confidence, proud)
    assert sum(one["pictures"] for one in bins) == 20_000
    assert all(one["from"] <= one["confidence"] <= one["to"] for one in bins)


def test_edges_of_bins():
    """The upper edge belongs to a bin; 0 and 1 have one too."""
    assert calibration.bins_of(np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 14 / 15, 1.0])).tolist() == [0, 0, 1, 13, 14]


def test_brier_and_log_loss_by_hand():
    """One sure and right, one at odds of three labels."""
    probabilities, truth = np.array([[1.0, 0, 0], [0.5, 0.25, 0.25]]), np.array([0, 1])
    assert calibration.brier(probabilities, truth) == pytest.approx([0, 0.25 + 0.5625 + 0.0625])
    assert calibration.log_losses(probabilities, truth) == pytest.approx([0, math.log(4)])


def test_activation():
    """As the node makes probabilities: softmax with temperature, one of each label, or as they come."""
    logits = np.array([[0.0, 2.0]])
    assert calibration.activate(logits, "softmax", 2.0)[0, 1] == pytest.approx(1 / (1 + math.exp(-1)))
    assert calibration.activate(logits, "sigmoid")[0].tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])
    assert calibration.activate(np.array([[0.2, 1.0000001]]), "none").tolist() == [[0.2, 1.0]]


#: Ten pictures from certain to uncertain; wrong are the 5th, 8th and 10th.
TOY = coverage.Selective(
    np.array([0, 0, 1, 1, 0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 1, 1, 0, 0, 0, 0]),
    np.array([0.99, 0.98, 0.97, 0.96, 0.9, 0.8, 0.7, 0.6, 0.55, 0.51]), 2,
)  # fmt: skip


def test_risk_and_coverage_by_hand():
    """Risk after each picture, its mean, and what is left at a coverage or threshold."""
    once = np.ones((1, 10))
    risks = [0, 0, 0, 0, 1 / 5, 1 / 6, 1 / 7, 2 / 8, 2 / 9, 3 / 10]
    assert TOY.aurc()(once)[0] == pytest.approx(sum(risks) / 10)
    assert TOY.at_coverage(0.8)(once)[0].tolist() == [[3, 1], [1, 3]]
    assert TOY.at_coverage(0.75)(once)[0].sum() == 8  # pictures are whole
    assert TOY.at_threshold(0.9)(once)[0].tolist() == [[2, 1], [0, 2]]
    assert (TOY.threshold_of(1.0), TOY.threshold_of(0.8)) == (0.51, 0.6)
    curve = {point["coverage"]: point for point in TOY.curve((0.4, 1.0))}
    assert (curve[0.4]["risk"], curve[0.4]["f1"]) == (0, 1)
    assert curve[1.0]["risk"] == pytest.approx(0.3)


def test_coverage_of_draws_is_that_of_the_drawn_pictures():
    """A weight of 2 is a picture that stands there twice, in any order of the data."""
    mixed = np.random.default_rng(0).permutation(10)
    data = coverage.Selective(TOY.truth[mixed], TOY.answer[mixed], TOY.confidence[mixed], 2)
    weights = next(Bootstrap([""] * 10, 50).weights())
    found, areas = data.at_coverage(0.8)(weights), data.aurc()(weights)
    for row, confusion, area in zip(weights.astype(int), found, areas, strict=True):
        drawn = sorted(np.repeat(np.arange(10), row), key=lambda one: -data.confidence[one])
        kept = Counter((data.truth[one], data.answer[one]) for one in drawn[:8])
        assert {(t, a): confusion[t, a] for t in (0, 1) for a in (0, 1)} == {
            (t, a): kept[t, a] for t in (0, 1) for a in (0, 1)
        }
        # Pictures that stand there twice count with the risk after both.
        wrong = [data.truth[one] != data.answer[one] for one in drawn]
        last = {one: number for number, one in enumerate(drawn)}
        expected = np.mean([np.mean(wrong[: last[one] + 1]) for one in drawn])
        assert area == pytest.approx(expected)
