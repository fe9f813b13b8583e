"""The command emppl: explain, fit, sample, compare, labels, rules.

Whatever only some commands need (arviz, matplotlib, the sampler) is imported inside them: a first `emppl fit` waits for
PyMC and for nothing else.
"""

from __future__ import annotations

import gc
import io
import sys
import warnings
from collections.abc import Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

import emppl
from emppl import console as view
from emppl import storage
from emppl.arguments import MOST, STARTS_AT_MOST
from emppl.axisnames import named_axes, no_axes
from emppl.documents import (
    comparison_document,
    fit_document,
    labels_document,
    plan_document,
    read_tree,
    records,
    verdict_records,
)
from emppl.errors import InvalidArgumentError
from emppl.explanation import missing
from emppl.interrupts import noticed
from emppl.session import BAD_INPUT, Session, folder_for, let_go, running, write_result, write_text
from emppl.streams import Tolerant

ABOUT_DRAWS = ("labels", "convergence", "precision", "divergences")  # verdicts of a comparison that `sample` shows

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="EM, MAP and the full posterior from one PyMC model.\n\n"
    "Exit status: 0 if the result can be relied on, 1 if a check of it failed, 2 on bad input.",
)


class Estimate(StrEnum):
    """What is maximised: log posterior or log-likelihood."""

    map = "map"
    ml = "ml"


class Method(StrEnum):
    """EM, or its hard variant (classification EM; k-means is a case of it)."""

    em = "em"
    hard = "hard"


class Init(StrEnum):
    """Where chains start: around EM's modes, or at random places."""

    modes = "modes"
    random = "random"


class Also(StrEnum):
    """Another fit to set beside the first: maximum likelihood, posterior mode, or hard assignments."""

    ml = "ml"
    map = "map"
    hard = "hard"


Model = Annotated[str, typer.Argument(metavar="MODEL", help="A shipped model, such as coins, or file.py[:function].")]
Data = Annotated[
    str | None, typer.Option("--data", metavar="FILE.csv", help="Data of the model; its own example if not given.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the model; may be repeated.")
]
Out = Annotated[str | None, typer.Option("--out", metavar="DIR", help="Folder for results.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of everything that is random.")]
Unused = Annotated[
    int, typer.Option("--seed", metavar="N", min=0, help="Taken as by the other commands; nothing is random.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Starts = Annotated[int, typer.Option("--starts", metavar="N", min=1, max=STARTS_AT_MOST, help="Random starts of EM.")]
CheckpointOption = Annotated[
    str | None,
    typer.Option("--checkpoint", metavar="FILE", help="Starts are kept there, and the same command goes on from it."),
]
MaxIter = Annotated[int, typer.Option("--max-iter", metavar="N", min=1, help="Iterations of a start at most.")]
EstimateOption = Annotated[
    Estimate, typer.Option("--estimate", help="Posterior mode, or maximum likelihood (priors dropped).")
]
MethodOption = Annotated[Method, typer.Option("--method", help="EM, or hard assignments as in k-means.")]
AlsoOption = Annotated[
    list[Also] | None, typer.Option("--also", help="Set another fit beside: ml, map or hard; may be repeated.")
]
Draws = Annotated[int, typer.Option("--draws", metavar="N", min=4, max=MOST, help="Draws of a chain.")]
Tune = Annotated[
    int, typer.Option("--tune", metavar="N", min=1, max=MOST, help="Draws of a chain that tune the sampler, not kept.")
]
Chains = Annotated[int, typer.Option("--chains", metavar="N", min=1, max=MOST, help="Chains.")]
InitOption = Annotated[Init, typer.Option("--init", help="Where chains start: around EM's modes, or anywhere.")]


# -- commands ----------------------------------------------------------------------------------------------------------


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"emppl {emppl.__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def explain(
    ctx: typer.Context,
    model: Model,
    data: Data = None,
    settings: Settings = None,
    out: Out = None,
    seed: Unused = 0,
    estimate: EstimateOption = Estimate.map,
    method: MethodOption = Method.em,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what would be done to a model, and why. With --out, write plan.txt.

    \b
    Keys of --json, besides emppl, command, line, model, reliable and files:
      estimate, method, exact, e_step
      variables       name, role, dims, prior / support, how
      blocks          parameters, rule, cost, refused (rule, reason)
      component_axes  latent, dim, labels, variables, exchangeable
      remarks         sentences
    """
    with running(ctx, as_json, quiet) as session:
        folder = None if out is None else folder_for(out, "")
        plan = _plan(session, model, data, settings, estimate, method)
        write_text(session, folder, "plan", lambda console: view.show_plan(console, plan))
        session.end(True, lambda: plan_document(plan), lambda: view.show_plan(session.out, plan))


@app.command()
def fit(
    ctx: typer.Context,
    model: Model,
    data: Data = None,
    settings: Settings = None,
    out: Out = None,
    seed: Seed = 0,
    starts: Starts = 10,
    estimate: EstimateOption = Estimate.map,
    method: MethodOption = Method.em,
    max_iter: MaxIter = 2000,
    checkpoint: CheckpointOption = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the mode by EM, with evidence. With --out, write fit.nc.

    \b
    Keys of --json, besides emppl, command, line, model, reliable and files:
      status, status_text, estimate, method, n_iter, n_passes, seconds, seed
      log_posterior, log_likelihood, log_prior
      theta             by name: dims, values
      parameters        parameter, index, estimate, standard_error, low, high
      responsibilities  by latent: values, expected, assigned, dims, probabilities
      certificate       holds, points (name, holds, value, limit, text), notes
      starts            start, kind, status, reason, log_posterior, n_iter, …
      advice            what to do next, if something failed
    A number that does not exist (a standard error on a border) is null.
    """
    with running(ctx, as_json, quiet) as session:
        folder = None if out is None else folder_for(out, "")
        plan = _plan(session, model, data, settings, estimate, method)
        found = _fit(session, plan, starts, seed, max_iter, checkpoint)
        if folder is not None:
            write_result(session, "fit", folder / "fit.nc", found.save)
        _end_with_fit(session, found)


@app.command()
def sample(
    ctx: typer.Context,
    model: Model,
    data: Data = None,
    settings: Settings = None,
    out: Out = None,
    seed: Seed = 0,
    draws: Draws = 1000,
    tune: Tune = 1000,
    chains: Chains = 4,
    init: InitOption = Init.random,
    starts: Starts = 10,
    estimate: EstimateOption = Estimate.map,
    method: MethodOption = Method.em,
    max_iter: MaxIter = 2000,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw from the posterior by NUTS, and write draws.nc.

    Latents are summed out. The draws are kept as they come, labels switched or not. A fit by EM comes first: it is
    what labels are held against when the draws are judged.

    \b
    Keys of --json, besides emppl, command, line, model, reliable and files:
      draws, tune, chains, sampler, sampling_seconds, compile_seconds
      parameters  parameter, mean, sd, hdi_low, hdi_high, r_hat, ess_bulk
      verdicts    name, holds, check, value, bound, limit, measure, text, advice
    """
    with running(ctx, as_json, quiet) as session:
        folder = folder_for(out, session.load(model, data, settings).name)
        plan = _plan(session, model, data, settings, estimate, method)
        found = _fit(session, plan, starts, seed, max_iter)
        if found.status is emppl.Status.INTERRUPTED:
            _end_with_fit(session, found)
        tree = _sample(session, found, draws, tune, chains, seed, folder, init)
        table, verdicts = _judged(found, tree)
        reliable = all(verdict.holds for verdict in verdicts)

        def document() -> dict[str, Any]:
            known = ("sampler", "sampling_seconds", "compile_seconds")
            how = {"draws": draws, "tune": tune, "chains": chains, **{key: tree.attrs.get(key) for key in known}}
            return {**how, "parameters": records(table, "parameter"), "verdicts": verdict_records(verdicts)}

        session.end(reliable, document, lambda: view.show_draws(session.out, table, tree, verdicts))


@app.command()
def compare(
    ctx: typer.Context,
    model: Model,
    data: Data = None,
    settings: Settings = None,
    out: Out = None,
    seed: Seed = 0,
    draws: Draws = 1000,
    tune: Tune = 1000,
    chains: Chains = 4,
    init: InitOption = Init.modes,
    starts: Starts = 10,
    estimate: EstimateOption = Estimate.map,
    method: MethodOption = Method.em,
    also: AlsoOption = None,
    max_iter: MaxIter = 2000,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Set EM and NUTS side by side, and write a report.

    Writes report.html, report.md (the same as text), summary.json (the same as --json prints it), fit.nc and draws.nc
    (draws aligned to the fit, and the table) into --out, or into emppl-<model>.

    \b
    Keys of --json, besides emppl, command, line, model, reliable and files:
      headline
      verdicts   name, holds, check, value, bound, limit, measure, text, advice
      table      parameter, estimate, standard_error, mean, sd, hdi_low, hdi_high,
                 r_hat, ess_bulk, difference, flag, quantile, skewness, coverage, mcse
      modes      log_posterior, log_likelihood, share (of the draws), starts, labellings,
                 coincident, empty, border, definite, log_evidence
      laplace    parameter, mean, sd, low, high, distance, ks, coverage, unconstrained_mode, shift
      priors     parameter, prior, posterior, share (of the precision that is the prior's)
      prediction elpd, error, effective, unreliable, rows, total, groups (of chains that do not mix)
      estimates  parameter, one column a fit, mean, sd (with --also)
      timing     em_seconds, nuts_sampling_seconds, nuts_compile_seconds, …
      switching  state, verdict, symmetric, r_hat_before, r_hat_after, switches
      labels, ascent, members, plan, certificate, reproduce: the sections of the report
      fit        as emppl fit --json
    """
    with running(ctx, as_json, quiet) as session:
        folder = folder_for(out, session.load(model, data, settings).name)
        plan = _plan(session, model, data, settings, estimate, method)
        found = _fit(session, plan, starts, seed, max_iter)
        write_result(session, "fit", folder / "fit.nc", found.save)
        if found.status is emppl.Status.INTERRUPTED:
            _end_with_fit(session, found)
        tree = _sample(session, found, draws, tune, chains, seed, folder, init)
        fits = {"EM": found, **{name.value: _also(session, plan, name, starts, seed, max_iter) for name in also or ()}}
        with noticed():
            comparison = emppl.compare(fits, tree, progress=session.progress)
        with session.doing("writing the report"):
            write_result(
                session, "draws", folder / "draws.nc", lambda path: storage.write_tree(path, comparison.to_datatree())
            )
            write_result(
                session, "report", folder / "report.html", lambda path: comparison.to_html(path, command=session.line)
            )
            write_result(
                session, "text", folder / "report.md", lambda path: comparison.to_markdown(path, command=session.line)
            )
        session.files["summary"] = str(folder / "summary.json")
        content = {"reliable": comparison.reliable, **comparison_document(comparison), "files": session.files}
        text = session.document(content)
        write_result(session, "summary", folder / "summary.json", lambda path: storage.write_text(path, text))
        session.end(comparison.reliable, lambda: content, lambda: view.show_comparison(session.out, comparison))


@app.command()
def labels(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL_OR_DRAWS", help="A model as elsewhere, or a file of draws (.nc)."),
    ],
    data: Data = None,
    settings: Settings = None,
    dims: Annotated[
        list[str] | None,
        typer.Option(
            "--dims", metavar="DIM", help="Component dim of a file of draws: DIM, DIM,DIM or VARIABLE=AXIS[,AXIS]."
        ),
    ] = None,
    of_model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="The model of a file of draws, in place of --dims.")
    ] = None,
    responsibilities: Annotated[
        str | None, typer.Option("--responsibilities", metavar="NAME", help="Variable that holds them, with --dims.")
    ] = None,
    allocations: Annotated[
        str | None, typer.Option("--allocations", metavar="NAME", help="Variable of labels, with --dims.")
    ] = None,
    how: Annotated[str, typer.Option("--method", metavar="NAME", help="How to relabel; auto chooses.")] = "auto",
    out: Out = None,
    seed: Seed = 0,
    draws: Draws = 1000,
    tune: Tune = 1000,
    chains: Chains = 4,
    starts: Starts = 10,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say whether labels switch in draws, whether relabelling cures it, and compare methods of relabelling.

    A model is fitted and sampled first. A file of draws, of Stan or of anything else that ArviZ has saved, needs its
    component dim: --dims component. Dims that run over the same components go together: --dims state,next_state.
    Variables without such a dim are named with their axes, counted from 0: --dims mu=0 --dims Gamma=0,1. Two --dims are
    two families of components. With --out, write labels.txt and draws.nc, the draws relabelled.

    \b
    Keys of --json, besides emppl, command, line, model, reliable and files:
      state, verdict, caveat, symmetric, switches, ambiguous
      r_hat_before, r_hat_after, r_hat_invariant, ess_invariant
      axes        latent, labels, variables, sentence, method, why, switches, …
      parameters  parameter, variable, r_hat_before, r_hat_after, ess_before, …
      invariants  quantity, r_hat, ess, apart
      methods     latent, objective, auto, why, table, agreement, not_run
    """
    with running(ctx, as_json, quiet) as session:
        folder = None if out is None else folder_for(out, "")
        if model.endswith(".nc"):
            if (data is not None or settings) and of_model is None:
                raise InvalidArgumentError(
                    "--data and --set are for a model, and none is named", f"emppl labels {model}", ("--model MODEL",)
                )
            tree = read_tree(Path(model))
            subject: dict[str, Any] = named_axes(tree, dims, responsibilities, allocations)
            if of_model is not None:
                subject["model"] = _plan(session, of_model, data, settings, Estimate.map, Method.em)
            elif not dims:
                no_axes(tree, model)
        else:
            if dims or of_model or responsibilities or allocations:
                raise InvalidArgumentError(
                    "--dims, --model, --responsibilities and --allocations go with a file of draws (.nc); a model "
                    "tells its own component axes", f"emppl labels {model}", ("leave them out",),
                )  # fmt: skip
            plan = _plan(session, model, data, settings, Estimate.map, Method.em)
            found = _fit(session, plan, starts, seed, 2000)
            if found.status is emppl.Status.INTERRUPTED:
                _end_with_fit(session, found)
            tree = _sample(session, found, draws, tune, chains, seed, folder)
            subject = {"to": found}
        with session.doing("relabelling"):
            _end_with_labels(session, tree, subject, how, folder)


@app.command()
def rules(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Say which rules this model uses.")] = None,
    data: Data = None,
    settings: Settings = None,
    out: Out = None,
    seed: Unused = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the rules that emppl knows. With --out, write rules.txt.

    \b
    Keys of --json, besides emppl, command, line, model, reliable and files:
      families, conjugate priors, E-steps, M-steps: rows of text, of which
      "used by" names variables of MODEL, where one is given
    """
    with running(ctx, as_json, quiet) as session:
        folder = None if out is None else folder_for(out, "")
        tables = emppl.rules()
        if model is None and (data is not None or settings):
            raise InvalidArgumentError(
                "--data and --set are for a model, and none is named", "emppl rules", ("emppl rules MODEL",)
            )
        if model is not None:
            plan = _plan(session, model, data, settings, Estimate.map, Method.em)
            tables = {title: [{**row, "used by": _users(plan, row)} for row in rows] for title, rows in tables.items()}
        write_text(session, folder, "rules", lambda console: view.show_rules(console, tables))
        session.end(True, lambda: dict(tables), lambda: view.show_rules(session.out, tables))


def _users(plan: emppl.Plan, row: Mapping[str, str]) -> str:
    """The variables of a model for which a row of the rules is used."""
    families = {
        entry.factor.name: entry.form.family.name
        for entry in plan.factors
        if entry.form is not None and entry.form.family is not None
    }
    if "prior" in row:
        closed = {name for block in plan.blocks if block.update.is_exact for name in block.parameters}
        seen = {
            name
            for entry in plan.factors
            if families.get(entry.factor.name) == row["family"]
            for name in entry.factor.parameters
        }
        names = [
            p.name
            for p in plan.structure.parameters
            if p.name in closed & seen and p.distribution.startswith(f"{row['prior']}(")
        ]
    elif "family" in row:
        names = [name for name, family in families.items() if family == row["family"]]
    elif "engine" in row:
        names = [entry.factor.name for entry in plan.factors if entry.plates and row["engine"].startswith(entry.engine)]
    else:
        by_rule: dict[str, list[str]] = {}
        for block in plan.blocks:
            by_rule.setdefault(block.rule, []).extend(block.parameters)
        names = by_rule.get(row["rule"], [])
    return ", ".join(names)


# -- steps that commands share -----------------------------------------------------------------------------------------


def _plan(
    session: Session, model: str, data: str | None, settings: list[str] | None, estimate: Estimate, method: Method
) -> emppl.Plan:
    loaded = session.loaded or session.load(model, data, settings)
    plan = emppl.plan(loaded.model, estimate=estimate.value, method=method.value, name=loaded.name)
    for line in missing(plan.structure) if session.command != "explain" else ():
        warnings.warn(line, stacklevel=1)
    return plan


def _fit(
    session: Session, plan: emppl.Plan, starts: int, seed: int, max_iter: int, checkpoint: str | None = None
) -> emppl.Fit:
    try:
        return emppl.fit(
            plan, starts=starts, seed=seed, max_iter=max_iter, progress=session.progress, checkpoint=checkpoint
        )
    except OSError as problem:
        if checkpoint is None:
            raise
        raise InvalidArgumentError(
            f"{checkpoint} cannot be written: {problem}", "--checkpoint", ("--checkpoint another file",)
        ) from None


def _also(session: Session, plan: emppl.Plan, name: Also, starts: int, seed: int, max_iter: int) -> emppl.Fit:
    """The same model fitted in another way. KeyboardInterrupt where Ctrl-C ended that fit."""
    estimate = plan.estimate if name is Also.hard else name.value
    other = emppl.plan(plan, estimate=estimate, method="hard" if name is Also.hard else "em")
    found = emppl.fit(other, starts=starts, seed=seed, max_iter=max_iter, progress=session.progress)
    if found.status is emppl.Status.INTERRUPTED:
        raise KeyboardInterrupt
    return found


def _end_with_labels(session: Session, tree: Any, subject: dict[str, Any], method: str, folder: Path | None) -> None:
    """Diagnosis, methods side by side for every axis, and what is written of them."""
    asked = {key: value for key, value in subject.items() if key not in ("to", "model")}
    report = emppl.diagnose(tree, subject.get("to", subject.get("model")), method=method, **asked)
    names = [axis.latent for axis in report.axes if not axis.weak]
    compared = [emppl.compare_methods(tree, axis=name, **subject) for name in names]
    write_text(session, folder, "labels", lambda console: view.show_labels(console, report, compared))
    if folder is not None:
        relabelled = emppl.relabel(tree, method=method, **subject)
        write_result(session, "draws", folder / "draws.nc", lambda path: storage.write_tree(path, relabelled))
    session.end(
        report.state.cured,
        lambda: labels_document(report, compared),
        lambda: view.show_labels(session.out, report, compared),
    )


def _end_with_fit(session: Session, found: emppl.Fit) -> None:
    reliable = found.status is emppl.Status.CONVERGED and found.certificate.holds
    session.end(reliable, lambda: fit_document(found), lambda: view.show_fit(session.out, found, session.line))


def _sample(
    session: Session, found: emppl.Fit, draws: int, tune: int, chains: int, seed: int, folder: Path | None,
    init: Init = Init.random,
) -> Any:  # fmt: skip
    """Draws, and written into the folder; where it ends otherwise, those that there are, and the fit, before that."""
    tree = None
    try:
        tree = emppl.sample(
            found, draws=draws, tune=tune, chains=chains, seed=seed, init=init.value, progress=session.progress
        )
        if tree.attrs.get("interrupted") == "True":
            raise KeyboardInterrupt
    except BaseException:  # Ctrl-C, or a sampler that broke down
        if folder is not None:
            write_result(session, "fit", folder / "fit.nc", found.save)
            if tree is not None and tree["posterior"].sizes["draw"]:
                write_result(session, "draws", folder / "draws.nc", partial(storage.write_tree, tree=tree))
        raise
    if folder is not None:
        write_result(session, "draws", folder / "draws.nc", partial(storage.write_tree, tree=tree))
    return tree


def _judged(found: emppl.Fit, tree: Any) -> tuple[pd.DataFrame, list[Any]]:
    """Numbers of the draws as they came, and the verdicts about them once labels are aligned."""
    from emppl.comparison.table import tabulate

    table, _, _ = tabulate(found, tree)
    verdicts = [
        verdict
        for verdict in emppl.compare(found, tree, ascents=0, progress=False).verdicts
        if verdict.name in ABOUT_DRAWS
    ]
    return table[["mean", "sd", "hdi_low", "hdi_high", "r_hat", "ess_bulk"]], verdicts


def main() -> None:
    """Entry point of the command `emppl`."""
    gc.freeze()  # what was imported stays to the end: garbage is looked for among what the command makes,
    gc.set_threshold(50_000)  # and not while a small model is compiled, whose graphs stay too
    try:
        app(prog_name="emppl")
    except OSError as problem:  # of --help and --version, which no session runs: a full disk behind standard output
        stderr = Tolerant(sys.stderr or io.StringIO())
        stderr.write(f"emppl: {problem}\n")
        stderr.flush()
        for stream in (sys.stdout, sys.stderr) if stderr.failed else (sys.stdout,):
            let_go(stream)
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
