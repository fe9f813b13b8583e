"""A model and a source of rows → a Plan whose E-step goes over the source, block by block.

The plan is made on a sample of the rows, in frames that are those of all rows; only what its E-step reads is replaced.
What the sample says is held against every block before anything is fitted.
"""

from __future__ import annotations

from dataclasses import replace
from math import fsum
from typing import Any

import numpy as np

from emppl.compiling import building, compile_graph
from emppl.errors import InvalidArgumentError, InvalidDataError, SourceError, UnsupportedModelError
from emppl.kernels.mixture import PAYS
from emppl.planner import FactorPlan, Plan
from emppl.planner import plan as make_plan
from emppl.rules.regression import RegressionForm
from emppl.rules.tables import Family, Frame, family
from emppl.streaming.blocks import Source, as_source
from emppl.streaming.engine import Pass, StreamedPlate
from emppl.streaming.executors import Local, Workers, runner
from emppl.streaming.live import LiveModel
from emppl.streaming.readers import IN_MEMORY, Exposure, FamilyRows, Latents, Measure, Reader, RegressionRows
from emppl.streaming.survey import Observations, Survey, Surveyor, surveyed
from emppl.structure import analyse
from emppl.structure.types import Plate

SAMPLE_ROWS = 4096  # rows on which a plan is made, starts are found and the certificate's checks are done
TRIED = 8  # configurations at which the mean of a regression is held against every block
LINEAR = 1e-9


def streamed(
    model: Any, source: Any, *, block_size: int | None = None, executor: Any = None, seed: int | None = None,
    **options: Any,
) -> Plan:  # fmt: skip
    """A Plan over all rows of a source; its `sample` is the same plan over some of them, in memory.

    Reads the source twice. Arguments as those of `emppl.fit`; options go to `emppl.plan`. Raises InvalidDataError
    (which block, which row) and UnsupportedModelError where a model's statistics do not add up block by block.
    """
    _refuse_options(options)
    if not hasattr(model, "named_vars"):
        raise InvalidArgumentError(
            f"a source needs the pm.Model itself, not {type(model).__name__}", "the first argument", ()
        )
    blocks = as_source(source, [v.name for v in model.data_vars], block_size)
    workers = runner(executor, blocks)
    with building():
        live = LiveModel(model, blocks.names)
        size = SAMPLE_ROWS if live.takes_any_length() else live.n_rows
    survey = _survey(live, blocks, workers, size, seed)
    if size == live.n_rows and survey.n < size:
        raise InvalidDataError(
            f"the source has {survey.n} rows, fewer than the {size} that the model was built for", "source",
            ("give latents the length of the data: shape=y.shape[0], or dims that y has",),
        )  # fmt: skip
    with building():
        sample = _plan_on_sample(live, survey, options)
        entries = _entries(sample, len(next(iter(survey.sample.values()))))
        parts = [_part(sample, entry, live, survey) for entry in entries]
        compiled = _compiled(sample, survey.n)
        reader = Reader(live.shapes, parts, compiled, isinstance(workers, Local))
        _check_reader(reader, sample, survey)
    base, reader = _measured(reader, blocks, workers, survey)
    over = Pass(blocks, reader, workers, survey.n)
    held = sample.engine.plates[0]
    streaming = StreamedPlate(
        reader.features(survey.sample), held.base, None, None, False, held.supports, False, compiled, over, base
    )  # fmt: skip
    structure = sample.structure
    kept = tuple(d for d in structure.deterministics if not live.reads([model[d.name]]))
    structure = replace(structure, deterministics=kept)
    sample = replace(sample, structure=structure)
    return replace(sample, engine=sample.engine.with_data([streaming]), sample=sample)


def _refuse_options(options: dict[str, Any]) -> None:
    for name, way in (("obs_weights", "repeat rows instead"), ("labels", "give known rows to a variable of their own")):
        if options.get(name) is not None:
            raise UnsupportedModelError(
                f"{name} belongs to single rows, and rows of a source come and go", f"{name}, source", (way, *IN_MEMORY)
            )
    if options.get("estep") == "graph":
        raise UnsupportedModelError(
            "estep='graph' keeps the responsibilities of every row", "estep, source", ("estep='auto'", *IN_MEMORY)
        )


def _survey(live: LiveModel, blocks: Source, workers: Local | Workers, size: int, seed: int | None) -> Survey:
    observed = {}
    for rv in live.model.observed_RVs:
        graph = live.observations(rv)
        if live.reads([live.model.rvs_to_values[rv]]):
            vectors = getattr(rv.owner.op, "ndim_supp", 0) == 1
            observed[rv.name] = Observations(rv.name, graph, vectors, *_support(live, rv))
    surveyor = Surveyor(live.shapes, observed, size, 0 if seed is None else seed)
    return surveyed(workers.map(blocks, surveyor, "look", ()), size)


def _support(live: LiveModel, rv: Any) -> tuple[Family | None, dict[str, Any]]:
    """The family whose support observations must lie in, with what it takes to tell; None where that is not known."""
    graphs, rule = live.parameters(rv), family(rv.owner.op)
    if rule is None or not graphs:
        return None, {}
    by_name = dict(zip(rule.parameters, graphs))
    takes: dict[str, Any] = {name: live.known(by_name[name]) for name in (*rule.known, *rule.constant)}
    if rule.name == "Categorical":
        takes["size"] = by_name["p"].type.shape[-1]
    return (None, {}) if any(value is None for value in takes.values()) else (rule, takes)


def _plan_on_sample(live: LiveModel, survey: Survey, options: dict[str, Any]) -> Plan:
    """The plan of the model on the sample, in the frames of all rows."""
    reading = {k: options[k] for k in ("latents", "support", "freeze", "name") if options.get(k) is not None}
    others = {k: v for k, v in options.items() if k not in ("latents", "support", "freeze", "name")}
    structure = analyse(live.on(survey.sample), **{"name": live.model.name or None, **reading})
    trailing = {node.name: node.shape[1:] for node in structure.observed}
    frames = {name: m.rows(trailing[name]) for name, m in survey.moments.items() if name in trailing}
    plan = make_plan(replace(structure, frames=frames), **others)
    return replace(plan, options={**plan.options, **reading})


def _entries(plan: Plan, n_rows: int) -> list[FactorPlan]:
    """What is read of the rows, in the order of the statistics. Raises UnsupportedModelError with the reason."""
    structure = plan.structure
    name = ", ".join(node.name for node in structure.latents) or structure.name

    def refuse(what: str, *ways: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"rows cannot be streamed: {what}", name, (*ways, *IN_MEMORY))

    if not structure.plates:
        raise refuse("the model has no latent variable, so that there is nothing to sum out")
    if any(plate.tied for plate in structure.plates):
        raise refuse("the latents of different rows are tied to each other, and a block would cut them apart")
    if len(structure.plates) > 1 or not _is_plate_of_rows(structure.plates[0], n_rows):
        raise refuse(
            f"the members of its latents ({', '.join(f'{p.size} of {p.latents[0]}' for p in structure.plates)} in a "
            f"sample of {n_rows} rows) are not the rows of the data, one by one, and a block would cut them apart"
        )
    if any(node.window for node in structure.latents):
        raise refuse("a count without an upper end is summed over a window that is found from all data",
                     "bound it: support={name: range(...)}")  # fmt: skip
    entries = []
    for entry in plan.factors:
        if not entry.plates:
            continue
        if entry.form is None:
            raise refuse(
                f"{entry.factor.name} has no natural form ({entry.reason}), so that its M-step needs the "
                "responsibilities of every row"
            )
        if entry.form.members is None or not np.array_equal(entry.form.members, np.arange(n_rows)):
            raise refuse(f"{entry.factor.name} has several rows for a member of its latents")
        if entry.reason:
            raise refuse(f"{entry.factor.name} is no exponential family ({entry.reason}), only its distinct rows are")
        entries.append(entry)
    return sorted(entries, key=lambda e: e.columns.start)


def _is_plate_of_rows(plate: Plate, n_rows: int) -> bool:
    return plate.size == n_rows


def _compiled(plan: Plan, n: int) -> bool:
    """Whether passes over all rows are worth compiled code."""
    choice = plan.options.get("compile", "auto")
    (data,), (plate,) = plan.engine.plates, plan.structure.plates
    return choice == "always" or (
        choice == "auto" and n * plate.n_configurations * (2 * data.features.distinct.n + 20) > PAYS
    )


# -- readers -----------------------------------------------------------------------------------------------------------


def _part(plan: Plan, entry: FactorPlan, live: LiveModel, survey: Survey) -> Any:
    """How the statistics of one factor are read from rows."""
    factor, form = entry.factor, entry.form
    if factor.kind != "observed":
        rows = np.asarray(form.features)
        if (rows != rows[:1]).any():
            raise UnsupportedModelError(
                f"rows cannot be streamed: {factor.name} is not the same for every row", factor.name, IN_MEMORY
            )
        return Latents(rows[0])
    rv = live.model[factor.name]
    if form.axis != 0:
        raise UnsupportedModelError(
            f"rows cannot be streamed: members of {factor.name} run along axis {form.axis}", factor.name,
            ("put rows first: transpose the data",),
        )  # fmt: skip
    if not live.reads([live.model.rvs_to_values[rv]]):
        raise InvalidArgumentError(
            f"the observations of {factor.name} are not in the source", f"observed variable {factor.name!r}",
            ('y = pm.Data("y", first_rows), observed=y, and source={"y": …}',),
        )  # fmt: skip
    if isinstance(form, RegressionForm):
        return _regression(plan, entry, live, survey)
    if form.featurise is None or form.family is None:
        raise UnsupportedModelError(
            f"rows cannot be streamed: {factor.name} has rows with parameters of their own, in groups", factor.name,
            IN_MEMORY,
        )  # fmt: skip
    return _of_family(plan, entry, live)


def _of_family(plan: Plan, entry: FactorPlan, live: LiveModel) -> FamilyRows:
    factor, form = entry.factor, entry.form
    rule, rv = form.family, live.model[factor.name]
    y = np.asarray(factor.value.data)
    n_slots = int(np.prod(form.slots, dtype=int))
    core = factor.op.ndim_supp
    frame = form.frame
    if frame is not None and not core:
        frame = Frame(*(np.asarray(part)[:n_slots] for part in frame))
    graphs = dict(zip(rule.parameters, live.parameters(rv)))
    if not graphs and live.reads(rv.owner.inputs):
        raise UnsupportedModelError(
            f"rows cannot be streamed: {factor.name} is a mixture of its own whose components depend on "
            f"{' and '.join(live.reads(rv.owner.inputs))}",
            factor.name,
            ("write the component as a latent: z = pm.Categorical(...), and parameters indexed by z",),
        )
    known: dict[str, Any] = {}
    for name, value in form.known.items():
        own = name in graphs and live.reads([graphs[name]])
        if name == "exposure":
            known[name] = _exposure(plan, entry, live, graphs[rule.scale])
        elif own:
            known[name] = live.known(graphs[name])
        else:
            known[name] = value if np.ndim(value) == 0 else np.asarray(value)[:1]
    for name, graph in graphs.items():
        read = live.reads([graph])
        if read and name not in known and not (name == rule.scale and "exposure" in known):
            raise UnsupportedModelError(
                f"rows cannot be streamed: {name} of {factor.name} depends on {' and '.join(read)}, which is constant "
                "in a sample of the rows",
                factor.name,
                (f"leave {' and '.join(read)} out of it",),
            )
    if any(isinstance(value, np.ndarray) and np.ptp(np.asarray(form.known[name]), axis=0).any()
           for name, value in known.items()):  # fmt: skip
        raise InvalidArgumentError(
            f"{factor.name} has known numbers that vary over the rows and are not in the source", factor.name, ()
        )
    flat = y.reshape(len(y), -1)
    pairs, sources = None, form.features.sources
    if len(sources) == 1 and sources[0].row_of is None and np.array_equal(sources[0].array, flat):
        pairs = form.features.left, form.features.right
    return FamilyRows(
        factor.name, live.observations(rv), rule, frame, core, form.slots, known, flat.shape[1], pairs
    )  # fmt: skip


def _points(plan: Plan, count: int) -> list[dict[str, np.ndarray]]:
    """Random values of the parameters, with what is frozen."""
    coordinates, rng = plan.structure.coordinates, np.random.default_rng(5)
    return [coordinates.constrain(rng.normal(scale=0.5, size=coordinates.size)) | plan.frozen for _ in range(count)]


def _latents_at(plan: Plan, configuration: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Every latent of the plate at its value in a configuration, with the shape of its later axes."""
    (plate,) = plan.structure.plates
    values = dict(zip(plate.latents, plate.configurations[configuration]))
    return {node.name: (values[node.name], node.shape[1:]) for node in plan.structure.latents if not node.implicit}


def _exposure(plan: Plan, entry: FactorPlan, live: LiveModel, graph: Any) -> Exposure:
    """The exposure of any row: its parameter over the parameter that the cell has, at two points and configurations."""
    form, (plate,) = entry.form, plan.structure.plates
    if len(set(plate.latents)) < len(plate.latents):
        raise UnsupportedModelError(
            f"rows cannot be streamed: exposures of {entry.factor.name}, with several latents of one name in a row",
            entry.factor.name, IN_MEMORY,
        )  # fmt: skip
    cells = compile_graph(plan.structure.coordinates.values, form.params[form.family.scale])
    points, configurations = _points(plan, 2), (0, plate.n_configurations - 1)
    units = []
    for point, j in zip(points, configurations):
        values = np.asarray(cells(*plan.structure.coordinates.arguments(point)))
        units.append(values.reshape(plate.n_configurations, *form.slots)[j])
    latents = tuple(_latents_at(plan, j) for j in configurations)
    return Exposure(live.parameter(graph), tuple(points), latents, tuple(units))


def _regression(plan: Plan, entry: FactorPlan, live: LiveModel, survey: Survey) -> RegressionRows:
    """The framed rows as an affine map of the data: found on the sample, held against every block later."""
    factor, form, (plate,) = entry.factor, entry.form, plan.structure.plates
    assert isinstance(form, RegressionForm)  # as the caller has seen
    rv, p, n_slots = live.model[factor.name], len(form.basis), int(np.prod(form.slots, dtype=int))
    graphs = live.parameters(rv)
    logs = factor.op._print_name[0] == "LogNormal" if getattr(factor.op, "_print_name", None) else False
    y_graph = live.observations(rv)

    def refuse(what: str, *ways: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"rows cannot be streamed: {what}", factor.name, (*ways, *IN_MEMORY))

    if len(graphs) < 2 or live.reads([graphs[1]]):
        raise refuse(f"the spread of {factor.name} varies over the rows")
    if len(set(plate.latents)) < len(plate.latents):
        raise refuse(f"{factor.name} has covariates, and several latents of one name in a row")
    read = live.reads([graphs[0]])
    raw = tuple(live.observations_of(name) for name in read)
    rows, n = survey.sample, len(form.features)
    y = np.asarray(factor.value.data, dtype=float).reshape(n, n_slots)
    y = np.log(y) if logs else y
    columns = np.concatenate([g(rows).reshape(n, -1) for g in raw] + [y], axis=1, dtype=float)
    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    design = np.concatenate([np.ones((n, 1)), (columns - centre) / scale], axis=1)
    framed = np.asarray(form.features.sources[0].array)
    found = np.linalg.lstsq(design, framed, rcond=1e-12)[0]
    if np.abs(design @ found - framed).max() > LINEAR * max(1.0, np.abs(framed).max()):
        raise refuse(
            f"the mean of {factor.name} is no linear map of {' and '.join(read) or 'the data'} but of something "
            "computed from it in the model",
            "compute such columns beforehand, and give them as a pm.Data of their own",
        )
    spread = form.frame.whiten[:n_slots]
    z, rest = framed[:, :p], framed[:, p:] * spread
    centre_y = z.T @ (y - rest) / n  # z is orthonormal up to n
    coefficients = compile_graph(plan.structure.coordinates.values, form.coefficients)
    (point,) = _points(plan, 1)
    beta = np.asarray(coefficients(*plan.structure.coordinates.arguments(point)))  # [J, P, slots]
    tried = np.unique(np.linspace(0, plate.n_configurations - 1, min(TRIED, plate.n_configurations)).astype(int))
    return RegressionRows(
        factor.name, raw, y_graph, logs, centre, scale, found[1:], found[0], (form.features.left, form.features.right),
        float(-np.log(spread).sum()), live.parameter(graphs[0]), point, tuple(_latents_at(plan, j) for j in tried),
        tuple(beta[j] * spread + centre_y for j in tried),
    )  # fmt: skip


# -- what the sample says, held against the sample itself and against all blocks ---------------------------------------


def _check_reader(reader: Reader, plan: Plan, survey: Survey) -> None:
    """On the sample the reader must give what the plan was made from: anything else is a defect of emppl."""
    held, read = plan.engine.plates[0].features, reader.features(survey.sample)
    few = slice(0, min(len(held), 256))
    wanted, found = np.asarray(held.dense(few)), np.asarray(read.dense(few))
    if not np.allclose(found, wanted, rtol=1e-9, atol=1e-9 * max(1.0, float(np.abs(wanted).max(initial=0.0)))):
        raise AssertionError("the statistics of the source's rows are not those of the plan: please report")


def _measured(reader: Reader, blocks: Source, workers: Local | Workers, survey: Survey) -> tuple[float, Reader]:
    """The base of all rows; and the reader, by dense statistics where products that the sample shows do not hold."""
    found: list[Measure] = list(workers.map(blocks, reader, "measure", ()))
    n = sum(m.n for m in found)
    if n != survey.n:
        raise SourceError(
            f"the source had {survey.n:,} rows at first, and {n:,} when it was read again", "source",
            ("a source must give the same blocks in every pass",),
        )  # fmt: skip
    parts = []
    for i, part in enumerate(reader.parts):
        here = [m.found[i] for m in found if m.n]
        if isinstance(part, FamilyRows):
            pairs = part.pairs if all(one.products for one in here) else None
            ones = np.all([one.ones for one in here], axis=0)
            part = replace(part, pairs=pairs, ones=ones)
        parts.append(part)
    return fsum(m.base for m in found), Reader(reader.shapes, parts, reader.compiled, reader.alone)
