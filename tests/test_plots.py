"""Pictures: what they draw is what the results say, and none fails on the odd shapes that results take."""

import re
from collections import namedtuple

import matplotlib
import numpy as np
import pandas as pd
import pytest
from comparison import fakes
from matplotlib.figure import Figure
from scipy.stats import multivariate_normal, norm

from emppl import plots
from emppl.comparison import compare
from emppl.errors import InvalidArgumentError
from emppl.plots.data import FAN_DRAWS, draw_contours, draw_ellipses
from emppl.plots.forest import forest_spans
from emppl.plots.style import COLOURS, DARK, EM, INK, LAPLACE, NUTS, PAPER, QUIET


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
    for name in ("marginals", "ascent", "permutations", "ranks", "responsibilities", "forest", "data"):
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
    assert any(np.allclose(span, [row["low"], row["high"]]) for span in spans)


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
    draw_ellipses(ax, values, p)
    two, one = ax.patches[:2]
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
    ax = figure.axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(rows.index)
    circles = {points.get_offsets()[0][1]: points.get_offsets()[0][0] for points in ax.collections}
    spans = {
        line.get_ydata()[0]: line.get_xdata()
        for line in ax.lines
        if line.get_linewidth() == 2 and len(line.get_xdata())
    }
    for i, (_, row) in enumerate(rows.iterrows()):
        assert circles[i + 0.24] == row["difference"]
        np.testing.assert_allclose(circles[i - 0.24], 0)
        ends = np.clip([(row[end] - row["mean"]) / row["sd"] for end in ("low", "high")], -6, 6)
        np.testing.assert_allclose(spans[i + 0.24], ends)
        np.testing.assert_allclose(
            spans[i - 0.24], [(row[end] - row["mean"]) / row["sd"] for end in ("hdi_low", "hdi_high")]
        )


def test_forest_draws_what_is_far_out_at_its_edge(comparison):
    table = comparison.table.copy()
    table.loc["mu[B]", "difference"] = -22.4
    figure = fakes.replace(comparison, table=table).plot_forest()
    assert "−22" in texts(figure) or "-22" in texts(figure)
    points = np.concatenate([dots.get_offsets()[:, 0] for dots in figure.axes[0].collections])
    assert points.min() == -6


def test_laplace_is_drawn_where_there_is_one(comparison):
    rows = comparison.table
    ends = {"low": rows["mean"] - rows["sd"], "high": rows["mean"] + 9 * rows["sd"]}
    normal = pd.DataFrame({"mean": rows["mean"] + rows["sd"] / 2, **ends})
    spans = forest_spans(fakes.replace(comparison, laplace=normal), ["mu[B]", "sigma[C]"])
    assert list(spans.model.values) == ["NUTS", "Laplace", "EM"]
    np.testing.assert_allclose(spans["point"].sel(model="Laplace"), 0.5)
    np.testing.assert_allclose(spans["ends"].sel(model="Laplace"), [[-1, 6], [-1, 6]])  # cut at six
    assert "Laplace" in fakes.replace(comparison, laplace=normal).plot_forest().legends[0].get_texts()[1].get_text()
    assert "Laplace" not in forest_spans(comparison, ["mu[B]"]).model


def test_modes_are_drawn_with_their_shares():
    mode = namedtuple("mode", "log_posterior starts draws share")
    found = [mode(-10.0, 0.7, np.array([1.0, 0.5]), 0.75), mode(-11.25, 0.3, np.array([0.0, 0.5]), 0.25)]
    figure = plots.modes(namedtuple("atlas", "modes n_starts")(found, 10), reported=1)
    assert "mode 1: -10.00\nthe highest" in texts(figure) and "mode 2 (EM): -11.25\n1.25 nats below" in texts(figure)
    found += [mode(-20.0, 0.0, np.zeros(2), 0.0)]
    assert "mode 3: -20.00\n10.00 nats below" in texts(plots.modes(namedtuple("atlas", "modes n_starts")(found, 10)))
    assert "the highest" in texts(figure) and "1.25 nats below" in texts(figure)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [0.75, 0.25, 0.7, 0.3]
    bare = plots.modes(namedtuple("atlas", "modes n_starts")([mode(-1.0, np.nan, np.array([]), np.nan)], 0))
    assert not bare.axes[0].patches


def test_draws_before_alignment_are_given_back():
    fit, draws = fakes.case(3, n=60, gap=8.0, draws=50)
    rng = np.random.default_rng(1)
    switched = fakes.switch(draws, rng.permuted(np.tile(np.arange(3), (4, 50, 1)), axis=-1), fit.plan)
    found = plots.as_sampled(compare(fit, switched))
    for name in ("weights", "mu", "sigma"):
        np.testing.assert_array_equal(found[name], switched["posterior"][name])
        assert (found[name] != draws["posterior"][name]).any()


def test_ranks_are_uneven_as_sampled_and_even_aligned(comparison):
    figure = comparison.plot_ranks()
    worst = comparison.switching.r_hat["r_hat_before"].idxmax()
    before, after = figure.axes[:2]
    assert before.get_title(loc="left").endswith(f"\n{worst}") and "Aligned" in after.get_title(loc="left")
    drawn = [
        [np.abs(line.get_ydata()).max() for line in ax.lines if len(line.get_ydata()) > 2] for ax in (before, after)
    ]
    assert len(drawn[0]) == len(drawn[1]) == 4
    # a chain that alone holds the lowest or the highest third departs by a half or more; one of four even ones hardly
    assert max(drawn[0]) > 0.5 > 0.25 > max(drawn[1])
    with pytest.raises(InvalidArgumentError, match="nothing to rank"):
        plots.ranks(
            fakes.replace(comparison, switching=fakes.replace(comparison.switching, r_hat=comparison.table[:0]))
        )


def test_densities_are_on_the_scale_of_the_bars(comparison):
    ax = comparison.plot_data().axes[0]
    total = next(line for line in ax.lines if line.get_label() == "EM")
    x, heights = total.get_data()
    point, y = comparison.fit.point, comparison.fit.plan.y
    expected = sum(w * norm.pdf(x, m, s) for w, m, s in zip(*(point[name] for name in ("weights", "mu", "sigma"))))
    np.testing.assert_allclose(heights, len(y) * ax.patches[0].get_width() * expected)
    parts = [line.get_ydata() for line in ax.lines if line is not total]
    np.testing.assert_allclose(np.sum(parts, axis=0), heights)
    band = ax.collections[0].get_paths()[0].vertices
    inside = [(band[band[:, 0] == at, 1].min() <= h <= band[band[:, 0] == at, 1].max()) for at, h in zip(x, heights)]
    assert np.mean(inside) > 0.9


def test_contours_of_a_normal_are_its_ellipses():
    rng = np.random.default_rng(0)
    means, covariances = np.array([[0, 0], [9, 4]]), [np.array([[1, 0.5], [0.5, 2]]), np.diag([0.3, 0.1])]
    values = np.concatenate([rng.multivariate_normal(*each, 200) for each in zip(means, covariances)])
    parts = [multivariate_normal(*each) for each in zip(means, covariances)]

    def densities(points, draws):
        em = np.stack([part.pdf(points) / 2 for part in parts], axis=-1)
        return em, np.stack([em] * draws)

    ax = Figure().subplots()
    p = np.repeat(np.eye(2), 200, axis=0)
    assert draw_contours(ax, plots.ObservedPanel("y", values, p, ["A", "B"], ["a", "b"], densities))
    for k, which in ((0, 0), (1, 1 + FAN_DRAWS)):
        two, one = (path.vertices - means[k] for path in ax.collections[which].get_paths())
        for sds, points in ((2, two), (1, one)):
            distance = np.sqrt(np.einsum("nd,de,ne->n", points, np.linalg.inv(covariances[k]), points))
            np.testing.assert_allclose(distance, sds, rtol=0.05)


def test_a_refused_density_leaves_the_bars():
    fit, draws = fakes.case(2, n=30, draws=40)

    def refuse(self, data, theta=None):
        raise InvalidArgumentError("covariates vary", "density")

    fields = {name: getattr(fit, name) for name in fit.__dataclass_fields__}
    figure = compare(type("Bare", (fakes.MixtureFit,), {"density": refuse})(**fields), draws).plot_data()
    assert not figure.axes[0].lines and figure.axes[0].patches


def test_svg_follows_the_theme_and_is_repeatable(comparison):
    text = plots.svg(comparison.plot_forest())
    assert text == plots.svg(comparison.plot_forest())
    rules = re.search(r"<style>(:root.*?)</style>", text).group(1)
    assert "@media screen and (prefers-color-scheme:dark)" in rules
    used = set(re.findall(r"var\((--c\d+)\)", text))
    assert used and used <= set(re.findall(r"(--c\d+):#", rules))
    assert not re.search(rf'style="[^"]*{INK.lower()}', text)  # no ink is left that a dark page would swallow


def contrast(one, two):
    """WCAG 2.1's ratio of two colours."""

    def luminance(colour):
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_seen_on_both_pages():
    for colour, least in ((INK, 7), (QUIET, 4.5), (EM, 3), (NUTS, 3), (LAPLACE, 3)):
        assert contrast(colour, PAPER) >= least
        assert contrast(DARK[colour], DARK[PAPER]) >= least
    assert all(contrast(DARK[colour], DARK[PAPER]) >= 3 for colour in COLOURS)
