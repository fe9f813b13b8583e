"""Pictures: what they draw is what the results say, and none fails on the odd shapes that results take."""

import matplotlib
import numpy as np
import pytest
from comparison import fakes
from matplotlib.figure import Figure

from emppl import plots
from emppl.comparison import compare
from emppl.errors import InvalidArgumentError


@pytest.fixture(scope="module")
def comparison():
    fit, draws = fakes.case(3, n=60, gap=8.0, draws=120)
    perms = np.stack([np.tile(perm, (120, 1)) for perm in ([0, 1, 2], [1, 2, 0], [0, 1, 2], [0, 1, 2])])
    return compare(fit, fakes.switch(draws, perms, fit.plan))


def texts(figure):
    found = [item.get_text() for ax in figure.axes for item in (*ax.texts, ax.xaxis.label, ax.yaxis.label)]
    found += [ax.get_title(loc="left") for ax in figure.axes]
    found += [label.get_text() for ax in figure.axes for label in (*ax.get_yticklabels(), *ax.get_xticklabels())]
    return " | ".join([*found, figure.get_suptitle()])


def test_every_method_draws_a_figure(comparison, tmp_path):
    for name in ("marginals", "ascent", "permutations", "responsibilities", "forest", "data"):
        figure = getattr(comparison, f"plot_{name}")()
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 3000
        assert figure._repr_png_().startswith(b"\x89PNG")  # what a notebook shows


def test_users_settings_are_left_alone(comparison):
    before = dict(matplotlib.rcParams)
    comparison.plot_forest()
    assert dict(matplotlib.rcParams) == before


def test_marginal_draws_estimate_interval_and_mean(comparison):
    figure = plots.marginal(comparison, "mu[B]", (0, 20))
    row = comparison.table.loc["mu[B]"]
    lines = figure.axes[0].lines
    points = {line.get_marker(): line.get_xdata()[0] for line in lines if line.get_marker() != "None"}
    assert points["o"] == row["estimate"]
    assert points["s"] == row["mean"]
    spans = [line.get_xdata() for line in lines if len(line.get_xdata()) == 2 and line.get_marker() == "None"]
    assert any(np.allclose(span, [row["hdi_low"], row["hdi_high"]]) for span in spans)
    arms = row["estimate"] + 1.96 * row["standard_error"] * np.array([-1, 1])
    assert any(np.allclose(span, arms) for span in spans)


def test_element_draws_are_the_aligned_draws(comparison):
    values = comparison.draws["posterior"]["sigma"].values[..., 2].ravel()
    np.testing.assert_array_equal(plots.element_draws(comparison, "sigma[C]"), values)


def test_scales_are_shared_unless_that_flattens(comparison):
    limits = plots.shared_limits(comparison, ["weights[A]", "weights[B]", "mu[A]", "mu[C]"])
    assert limits["weights[A]"] == limits["weights[B]"]
    assert limits["mu[A]"] != limits["mu[C]"]  # 16 apart, each a few tenths wide


def test_flagged_rows_are_drawn_first(comparison):
    flagged = [name for name in comparison.table.index[:9] if comparison.table.loc[name, "flag"]]
    shown = plots.shown_rows(comparison, len(flagged))
    assert shown == flagged
    assert plots.shown_rows(comparison, 100) == list(comparison.table.index[:9])  # derived ones are not drawn


def test_winner_of_the_ascent_is_bold(comparison):
    figure = plots.ascent(comparison.fit)
    widths = [line.get_linewidth() for line in figure.axes[0].lines if line.get_linestyle() != "None"]
    bold = [line for line in figure.axes[0].lines if line.get_linewidth() == max(widths)]
    best = max(comparison.fit.traces, key=lambda trace: trace[-1])
    assert any(len(line.get_ydata()) == len(best) and line.get_ydata()[-1] == best[-1] for line in bold)


def test_failed_starts_do_not_spoil_the_ascent(comparison):
    traces = [np.array([]), np.array([-500.0, np.nan]), np.array([-400.0, -np.inf]), *comparison.fit.traces]
    plots.ascent(fakes.replace(comparison.fit, traces=traces)).savefig("/dev/null", format="svg")
    plots.ascent(fakes.replace(comparison.fit, traces=[])).savefig("/dev/null", format="svg")


def test_permutations_by_name_and_as_an_image(comparison):
    shown = texts(comparison.plot_permutations())
    assert "= A, B, C" in shown and "C, A, B" in shown and "chain 3" in shown
    rng = np.random.default_rng(0)
    fit = fakes.em(fakes.MixturePlan(fakes.data(4, 120, 9.0), 4), starts=12)
    draws = fakes.gibbs(fit, 2, 60)
    perms = rng.permuted(np.tile(np.arange(4), (2, 60, 1)), axis=-1)
    figure = compare(fit, fakes.switch(draws, perms, fit.plan)).plot_permutations()
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), np.argsort(perms, axis=-1)[1].T)
    figure.savefig("/dev/null", format="svg")


def test_permutations_need_a_symmetry(comparison):
    report = fakes.replace(comparison.switching, axes=())
    with pytest.raises(InvalidArgumentError, match="no components that could be renamed"):
        plots.permutations(report)


def test_responsibilities_of_few_and_of_many_members(comparison):
    many = comparison.plot_responsibilities()
    em = comparison.members["component_of_row"]["em"].values
    np.testing.assert_allclose(many.axes[0].lines[1].get_xdata(), em[:, 0])
    fit, draws = fakes.case(2, n=12, draws=80)
    few = compare(fit, draws).plot_responsibilities("component_of_row")
    assert "component_of_row = A" in texts(few)
    np.testing.assert_allclose(
        few.axes[0].lines[0].get_xdata(), fit.plan.responsibilities(fit.point)["component_of_row"][:, 0]
    )
    with pytest.raises(InvalidArgumentError, match="nobody"):
        comparison.plot_responsibilities("nobody")


def test_bars_hold_every_member_once(comparison):
    figure = comparison.plot_data()
    heights = sum(patch.get_height() for patch in figure.axes[0].patches)
    assert heights == pytest.approx(60)


def test_two_features_get_ellipses_of_the_weighted_moments():
    rng = np.random.default_rng(0)
    values = np.r_[rng.normal(size=(300, 2)) * [3, 1], rng.normal(size=(200, 2)) + [0, 20]]
    p = np.repeat(np.eye(2), [300, 200], axis=0)
    figure = Figure()
    ax = figure.subplots()
    plots._ellipses(ax, plots.ObservedPanel("y", values, p, ["A", "B"], ["a", "b"]), (0, 1))
    one, two = ax.patches[:2]
    sds = np.sqrt(np.linalg.eigvalsh(np.cov(values[:300].T, bias=True)))[::-1]
    np.testing.assert_allclose([one.get_width(), one.get_height()], 2 * sds)
    np.testing.assert_allclose(two.get_width(), 2 * one.get_width())
    assert abs((one.angle + 90) % 180 - 90) < 5  # the long axis lies along x
    np.testing.assert_allclose(one.get_center(), values[:300].mean(axis=0))


def test_data_of_an_unknown_shape_are_not_drawn(comparison):
    bare = comparison.draws.copy()
    del bare["observed_data"]
    assert plots.data(fakes.replace(comparison, draws=bare)) is None


def test_forest_is_in_posterior_sds(comparison):
    figure = comparison.plot_forest()
    rows = comparison.table.iloc[:9]
    circles = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    np.testing.assert_allclose(circles.get_xdata(), rows["difference"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(rows.index)
    hdi, wald = (np.array(lines.get_segments())[:, :, 0] for lines in figure.axes[0].collections)
    np.testing.assert_allclose(hdi[:, 0], (rows["hdi_low"] - rows["mean"]) / rows["sd"])
    np.testing.assert_allclose(wald[:, 1], rows["difference"] + 1.96 * rows["standard_error"] / rows["sd"])
