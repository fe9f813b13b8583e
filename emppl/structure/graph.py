"""pm.Model → variables, values and factors: the log joint as a list of elementwise terms on the constrained scale.

The user's model is read, never changed: every random variable gets a value variable of our own, so that transforms,
Jacobians and start values (`initval=`) play no part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from pymc.distributions.custom import CustomDistRV, CustomSymbolicDistRV
from pymc.distributions.distribution import PartialObservedRV, SymbolicRandomVariable
from pymc.distributions.mixture import _BaseMixtureRV
from pymc.logprob.abstract import _logprob
from pymc.logprob.basic import conditional_logp
from pymc.logprob.basic import logp as log_density_of
from pymc.logprob.utils import replace_rvs_by_values
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.basic import Constant
from pytensor.graph.traversal import ancestors, explicit_graph_inputs
from pytensor.scalar.basic import Cast
from pytensor.tensor.random.op import RandomVariable
from pytensor.tensor.random.type import RandomType

from emppl.compiling import compile_graph
from emppl.concurrency import quiet
from emppl.errors import InvalidArgumentError, InvalidDataError, UnsupportedModelError, as_numbers
from emppl.structure.addends import addends
from emppl.structure.constants import model_in_double
from emppl.structure.domain import default_transform
from emppl.structure.indices import slices_apart
from emppl.structure.naming import check_name, labels_of
from emppl.structure.support import Supports, is_discrete
from emppl.structure.types import Factor, Node
from emppl.structure.variables import constant_data, distribution_text, freeze_data, is_masked_part

Entry = tuple[str, Any, Any, tuple[Any, ...], Any]  # name, log density, distribution, its parameters, value


class Reading:
    """What was read from one model, before its latents are sorted into plates."""

    def __init__(
        self,
        model: pm.Model,
        latents: Sequence[str] | None = None,
        support: Mapping[str, Any] | None = None,
        freeze: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        for given, argument in ((support, "support"), (freeze, "freeze")):
            if given is not None and not isinstance(given, Mapping):
                raise InvalidArgumentError(
                    f"{argument} must be {{name: value}}, not {given!r}", argument, (f"{argument}={{'name': ...}}",)
                )
        if isinstance(latents, str):
            raise InvalidArgumentError(
                f"latents must be a list of names, not {latents!r}", "latents", (f"latents=[{latents!r}]",)
            )
        self.frozen = {name: as_numbers(value, f"freeze[{name!r}]") for name, value in (freeze or {}).items()}
        self.coords: dict[str, np.ndarray] = {}
        self.parameters: list[Node] = []
        self.latents: list[Node] = []
        self.observed: list[Node] = []
        self.deterministics: list[Node] = []
        self.factors: list[Factor] = []
        self.dropped: tuple[str, ...] = ()
        self._values: dict[Any, Any] = {}  # rv -> value variable
        self._read(set(latents or ()), support or {})

    # -- steps, in order -----------------------------------------------------------------------------------------

    def _read(self, named_latent: set[str], support: Mapping[str, Any]) -> None:
        model = self.model
        self._refuse_what_is_not_a_model(named_latent)
        shapes = self._shapes([*model.free_RVs, *model.observed_RVs])
        self._shape_of = shapes
        self.dropped = self._unobserved_leaves()
        free = [rv for rv in model.free_RVs if rv.name not in self.dropped]
        self._check_frozen({rv.name: rv for rv in free})
        for rv in free:
            self._values[rv] = self._value_variable(rv)
        observed_values = {rv: self._observed_value(rv) for rv in model.observed_RVs}
        known = observed_values | {rv: self._values[rv] for rv in free if rv.name in self.frozen}
        self._supports = Supports(model, support, known)
        for rv in free:
            if rv.name in self.frozen:
                continue
            if is_discrete(rv):
                self.latents.append(self._latent_node(rv))
            else:
                # one that the user turned off (default_transform=None) still says where the parameter may be
                transform = model.rvs_to_transforms.get(rv) or default_transform(rv)
                self.parameters.append(self._node(rv, "parameter", self._values[rv], transform=transform))
        for rv, value in observed_values.items():
            self.observed.append(self._node(rv, "observed", value))
        self._read_factors(free, observed_values)
        self._read_deterministics()

    def _refuse_what_is_not_a_model(self, named_latent: set[str]) -> None:
        model = self.model
        if not isinstance(model, pm.Model):
            raise InvalidArgumentError(
                f"a pm.Model is needed, not {type(model).__name__}",
                "the first argument",
                ("pass the model itself: `with pm.Model() as model: ...`, then emppl.fit(model)",),
            )
        if not model.observed_RVs and not model.potentials:
            raise UnsupportedModelError(
                "the model has no observed variable, so there is nothing to fit",
                f"free variables: {', '.join(rv.name for rv in model.free_RVs) or 'none'}",
                (
                    "give the data to a distribution with observed=...",
                    "to draw from the prior: pm.sample_prior_predictive",
                ),
            )
        free = {rv.name: rv for rv in model.free_RVs}
        for name in named_latent:
            if name not in free:
                raise InvalidArgumentError(
                    f"latents names {name!r}, which is not a free variable of the model",
                    f"free variables: {', '.join(free)}",
                )
            if not is_discrete(free[name]):
                raise UnsupportedModelError(
                    f"{name} is continuous and cannot be summed out",
                    f"latents=[{name!r}]",
                    (f"leave {name} a parameter: it is then estimated with the others",),
                )
        for rv in model.observed_RVs:
            if type(rv.owner.op).__name__ == "MinibatchRandomVariable":
                raise UnsupportedModelError(
                    f"{rv.name} is a minibatch: the likelihood that it gives is a random estimate, "
                    "and EM needs the likelihood",
                    f"observed variable {rv.name!r} with total_size",
                    ("pass all the data and leave out total_size and pm.Minibatch",),
                )
            if isinstance(rv.owner.op, PartialObservedRV):
                name = rv.name.removesuffix("_observed")
                raise UnsupportedModelError(
                    f"{name} has vectors of which some entries are missing and others are not, "
                    "and no rule takes their joint density apart",
                    f"observed variable {name!r}",
                    (
                        "leave those rows out, or mask them whole",
                        "fill the missing entries in beforehand",
                        "where the entries are independent, write them as numbers: pm.Normal in place of pm.MvNormal",
                    ),
                )

    def _check_frozen(self, free: dict[str, Any]) -> None:
        for name, value in self.frozen.items():
            if name not in free:
                raise InvalidArgumentError(
                    f"freeze names {name!r}, which is not a free variable of the model",
                    f"free variables: {', '.join(free)}",
                )
            shape = self._shape_of[free[name]]
            if not free[name].dtype.startswith("float") and not np.array_equal(value, np.round(value)):
                raise InvalidArgumentError(
                    f"{name} takes whole numbers and cannot be frozen at {value.tolist()}", f"freeze={{{name!r}: ...}}"
                )
            try:
                value = np.broadcast_to(value, shape).astype(free[name].dtype)
            except ValueError:
                raise InvalidArgumentError(
                    f"the frozen value of {name} has shape {np.shape(value)}, not {shape}", f"freeze={{{name!r}: ...}}"
                ) from None
            self.frozen[name] = value

    def _value_variable(self, rv: Any) -> Any:
        if rv.name in self.frozen:
            return pt.constant(self.frozen[rv.name], name=rv.name)
        return pt.TensorType(rv.dtype, shape=self._shape_of[rv])(rv.name)  # not pt.tensor: "half" is a name, no dtype

    def _shapes(self, variables: Sequence[Any]) -> dict[Any, tuple[int, ...]]:
        """Shapes: from the type, the named dims, the data, and only then by evaluating shape graphs."""
        model, known, unknown = self.model, {}, []
        for rv in variables:
            dims = model.named_vars_to_dims.get(rv.name, ())
            lengths = [self._dim_length(dim) for dim in dims] if len(dims) == rv.ndim else [None] * rv.ndim
            shape = tuple(static if static is not None else length for static, length in zip(rv.type.shape, lengths))
            if None in shape and rv in model.observed_RVs:
                shape = tuple(np.shape(constant_data(model.rvs_to_values[rv])))
            if None in shape:
                unknown.append(rv)
            known[rv] = shape
        if unknown:
            evaluated = compile_graph([], [rv.shape for rv in unknown])()
            known.update({rv: tuple(int(n) for n in shape) for rv, shape in zip(unknown, evaluated)})
        for rv, shape in known.items():
            if 0 in shape:
                raise InvalidDataError(
                    f"{rv.name} is empty: its shape is {shape}",
                    f"variable {rv.name!r}",
                    ("give it at least one element",),
                )
        return known

    def _dim_length(self, dim: str | None) -> int | None:
        if dim is None:
            return None
        length = self.model.dim_lengths[dim]
        return int(length.get_value()) if isinstance(length, SharedVariable) else int(constant_data(length))

    def _unobserved_leaves(self) -> tuple[str, ...]:
        """Masked entries that nothing else depends on integrate to one: they leave the model as if never collected."""
        model, leaves = self.model, []
        for rv in model.free_RVs:
            untransformed = rv.name.endswith("_unobserved") and model.rvs_to_transforms.get(rv) is None
            if untransformed or is_masked_part(model, rv):
                others = [other for other in model.basic_RVs if other is not rv] + list(model.potentials)
                if not any(rv in set(ancestors([other])) for other in others):
                    leaves.append(rv.name)
        return tuple(leaves)

    def _observed_value(self, rv: Any) -> Constant:
        given = self.model.rvs_to_values[rv]
        if is_discrete(rv) and given.owner is not None and isinstance(getattr(given.owner.op, "scalar_op", None), Cast):
            given = given.owner.inputs[0]  # PyMC would cut off fractions, and make a number of what is none
        data = np.asarray(constant_data(given))
        if data.dtype.kind == "f" and not np.isfinite(data).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(data))[0])
            raise InvalidDataError(
                f"{rv.name}{list(index)} = {data[index]} is not a number that {distribution_text(rv)} can produce",
                f"observed variable {rv.name!r}, {self._place(rv.name, index)}",
                ("correct the value or leave the row out", "mask it: np.ma.masked_invalid(values)"),
            )
        if is_discrete(rv) and not (data == np.round(data)).all():
            index = tuple(int(i) for i in np.argwhere(data != np.round(data))[0])
            raise InvalidDataError(
                f"{rv.name}{list(index)} = {data[index]} is no whole number, as {distribution_text(rv)} takes",
                f"observed variable {rv.name!r}, {self._place(rv.name, index)}",
                ("correct the value or leave the row out", "for shares and rates: a continuous distribution"),
            )
        whole = is_discrete(rv) or data.dtype.kind != "f"
        return pt.constant(data.astype(rv.dtype if whole else float, copy=False), name=rv.name)

    def _place(self, name: str, index: tuple[int, ...]) -> str:
        dims = self.model.named_vars_to_dims.get(name, ())
        words = []
        for axis, i in enumerate(index):
            dim = dims[axis] if axis < len(dims) else None
            coord = self.model.coords.get(dim) if dim else None
            words.append(f"{dim} {coord[i]!r}" if coord is not None else f"{dim or f'axis {axis}'} {i}")
        return ", ".join(words) or "the only element"

    def _node(self, rv: Any, role: str, value: Any, **extra: Any) -> Node:
        dims = self._dims(rv.name, self._shape_of[rv])
        return Node(
            name=rv.name, role=role, dims=dims, shape=self._shape_of[rv], distribution=distribution_text(rv),
            value=value, rv=rv, **extra,
        )  # fmt: skip

    def _dims(self, name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
        given = self.model.named_vars_to_dims.get(name, ())
        check_name(name, f"variable {name!r}")
        dims = []
        for axis, length in enumerate(shape):
            dim = given[axis] if axis < len(given) else None
            if dim is None:
                dim = f"{name}_dim_{axis}"
            if dim not in self.coords:
                check_name(dim, f"the dims of {name!r}")
                coord = self.model.coords.get(dim)
                self.coords[dim] = np.arange(length) if coord is None else labels_of(coord)
            dims.append(dim)
        return tuple(dims)

    def _latent_node(self, rv: Any) -> Node:
        values, window = self._supports.of(rv)
        dims = self._dims(rv.name, self._shape_of[rv])
        node = Node(
            name=rv.name, role="latent", dims=dims, shape=self._shape_of[rv], distribution=distribution_text(rv),
            value=self._values[rv], rv=rv, support=values, labels=tuple(str(v) for v in values),
            window=window,
        )  # fmt: skip
        self._supports.append(node)
        return node

    # -- factors -------------------------------------------------------------------------------------------------

    def _read_factors(self, free: list[Any], observed_values: dict[Any, Any]) -> None:
        self.doubles = doubles = model_in_double(self.model)
        self._rvs_to_values = {doubles[rv]: value for rv, value in (self._values | observed_values).items()}
        self._shape_of |= {doubles[rv]: self._shape_of[rv] for rv in observed_values}
        mixtures = [doubles[rv] for rv in observed_values if isinstance(rv.owner.op, _BaseMixtureRV)]
        plain = [rv for rv in self._rvs_to_values if rv not in mixtures]
        with quiet():  # PyMC warns of random variables without values: dropped leaves
            terms = conditional_logp({rv: self._rvs_to_values[rv] for rv in plain}, warn_rvs=False)
        raw: list[Entry] = []
        for rv in plain:
            value = self._rvs_to_values[rv]
            op, params = _distribution_of(rv)
            raw.append((rv.name, terms[value], op, params, value))
        graphs = [entry[1] for entry in raw]
        replaced = iter(self._by_values([p for entry in raw for p in entry[3]]))
        raw = [(name, g, op, tuple(next(replaced) for _ in ps), v) for (name, _, op, ps, v), g in zip(raw, graphs)]
        for rv in mixtures:
            raw.extend(self._explicit_mixture(rv, self._rvs_to_values[rv]))
        for potential in self.model.potentials:
            (graph,) = self._by_values([doubles[potential]])
            raw.append((potential.name, graph, None, (), None))
        written = [g for _, g, _, ps, _ in raw for g in (g, *ps)]
        flat = slices_apart(freeze_data(written, numbers=True, keep=observed_values.values()))
        position = iter(flat)
        latent_values = {node.value: node.name for node in self.latents}
        parameter_values = {node.value: node.name for node in self.parameters}
        observed_names = {node.name for node in self.observed}
        names = {node.name for node in self.latents}
        whole = [(n, next(position), op, tuple(next(position) for _ in ps), v) for n, _, op, ps, v in raw]
        entries = [term for entry in whole for term in _terms(entry, set(latent_values))]
        shapes = self._graph_shapes([graph for _, graph, *_ in entries])
        count: Counter[str] = Counter()
        for (name, graph, op, params, value), shape in zip(entries, shapes):
            inputs = set(explicit_graph_inputs([graph]))
            latents = tuple(latent_values[v] for v in latent_values if v in inputs)
            parameters = tuple(parameter_values[v] for v in parameter_values if v in inputs)
            if name in observed_names:
                kind = "observed"
            elif name in names:
                kind = "latent"
            elif latents or sum(n == name for n, *_ in entries) > 1:  # a part of a potential that has latents
                kind = "potential"
            else:
                kind = "prior"
            count[name] += 1
            own = f"{name} ({count[name]})" if count[name] > 1 else name
            self.factors.append(Factor(own, kind, graph, shape, parameters, latents, None, op, params, value, name))

    def _graph_shapes(self, graphs: list[Any]) -> list[tuple[int, ...]]:
        if all(None not in g.type.shape for g in graphs):
            return [tuple(g.type.shape) for g in graphs]
        inputs = [node.value for node in (*self.parameters, *self.latents)]
        zeros = [np.zeros(v.type.shape, v.dtype) for v in inputs]
        evaluated = compile_graph(inputs, [g.shape for g in graphs])(*zeros)
        return [tuple(int(n) for n in shape) for shape in evaluated]

    def _by_values(self, graphs: list[Any]) -> list[Any]:
        if not graphs:
            return []
        return replace_rvs_by_values(graphs, rvs_to_values=self._rvs_to_values, rvs_to_transforms={})

    def _explicit_mixture(self, rv: Any, value: Any) -> list[Entry]:
        """pm.Mixture and its kin, spelled out: a component drawn for each element, then the element given it."""
        inputs = [p for p in rv.owner.inputs if not isinstance(p.type, RandomType)]
        weights, components = inputs[0], inputs[1:]
        batch_ndim = rv.ndim - components[0].owner.op.ndim_supp
        batch = self._shape_of[rv][:batch_ndim]
        (weight_values,) = self._by_values([weights])
        n_values = int(self._component_count(weight_values, components))
        name = f"{rv.name}_component"
        z = pt.TensorType("int64", shape=batch)(name)
        dims = self._dims(rv.name, self._shape_of[rv])[:batch_ndim]
        labels = tuple(str(k) for k in range(n_values))
        if len(components) > 1:
            labels = tuple(_component_label(c) for c in components)
        self.latents.append(
            Node(
                name,
                "latent",
                dims,
                batch,
                "Categorical(·)",
                z,
                support=np.arange(n_values),
                implicit=True,
                labels=labels,
            )
        )
        prior = pm.Categorical.dist(p=weight_values, shape=batch)
        entry_z = (name, log_density_of(prior, z), prior.owner.op, (prior.owner.op.dist_params(prior.owner)[0],), z)
        entry_y = (rv.name, *self._given_component(components, value, z, batch_ndim), value)
        return [entry_z, entry_y]

    def _component_count(self, weights: Any, components: list[Any]) -> int:
        if len(components) > 1:
            return len(components)
        count = weights.type.shape[-1]
        if count is None:
            inputs = [node.value for node in self.parameters]
            zeros = [np.ones(v.type.shape, v.dtype) for v in inputs]
            count = compile_graph(inputs, freeze_data([weights.shape[-1]]))(*zeros)[0]
        return int(count)

    def _given_component(self, components: list[Any], value: Any, z: Any, batch_ndim: int) -> tuple[Any, Any, tuple]:
        grid = [pt.arange(n).reshape((-1, *([1] * (batch_ndim - axis - 1)))) for axis, n in enumerate(z.type.shape)]
        op, params = _distribution_of(components[0]) if len(components) == 1 else (None, ())
        if op is not None:
            node, chosen = components[0].owner, []
            for param, core in zip(self._by_values(list(params)), op.ndims_params):
                axis = param.ndim - core - 1  # where the components lie among the parameter's batch axes
                if axis < 0:
                    chosen.append(param)
                elif param.type.broadcastable[axis]:
                    chosen.append(param.squeeze(axis))
                elif all(param.type.broadcastable[:axis]):
                    chosen.append(param.squeeze(tuple(range(axis)))[z] if axis else param[z])
                else:
                    lead = [
                        g if not b else 0 for g, b in zip(grid[batch_ndim - axis :], param.type.broadcastable[:axis])
                    ]
                    chosen.append(param[(*lead, z)])
            if isinstance(op, RandomVariable):
                graph = _logprob(op, (value,), op.rng_param(node), pt.constant(z.type.shape), *chosen)
            else:
                given = dict(zip(params, chosen)) | {op.size_param(node): pt.constant(z.type.shape)}
                graph = _logprob(op, (value,), *[given.get(v, v) for v in node.inputs])
            return graph, op, tuple(chosen)
        if len(components) == 1:
            expanded = pt.expand_dims(value, batch_ndim)
            (table,) = self._by_values([log_density_of(components[0], expanded)])
        else:
            parts = self._by_values([log_density_of(component, value) for component in components])
            graph = pt.broadcast_to(parts[-1], z.type.shape)
            for k in reversed(range(len(parts) - 1)):  # element by element, so that rows stay apart
                graph = pt.switch(pt.eq(z, k), parts[k], graph)
            return graph, None, ()
        return table[(*grid, z)], None, ()

    def _read_deterministics(self) -> None:
        model = self.model
        kept = [d for d in model.deterministics if not any(leaf in _names_above(d) for leaf in self.dropped)]
        graphs = freeze_data(self._by_values([self.doubles[d] for d in kept]))
        inputs = [node.value for node in (*self.parameters, *self.latents)]
        latent_values = {node.value for node in self.latents}
        alone = [(d, g) for d, g in zip(kept, graphs) if not latent_values & set(explicit_graph_inputs([g]))]
        if not alone:
            return
        shapes = self._graph_shapes([g for _, g in alone]) if inputs else [g.type.shape for _, g in alone]
        for (rv, graph), shape in zip(alone, shapes):
            dims = self._dims(rv.name, shape)
            self.deterministics.append(Node(rv.name, "deterministic", dims, shape, "function of parameters", graph, rv))


# -- helpers ---------------------------------------------------------------------------------------------------------


def _distribution_of(rv: Any) -> tuple[Any, tuple[Any, ...]]:
    """The op and its parameters where the variable is one plain distribution, else (None, ())."""
    node = rv.owner
    if isinstance(node.op, RandomVariable):
        return node.op, tuple(node.op.dist_params(node))
    if isinstance(node.op, SymbolicRandomVariable) and not isinstance(node.op, _BaseMixtureRV):
        try:  # made of other random variables inside (Weibull), but by numbers from outside
            params = tuple(node.op.dist_params(node))
        except ValueError:  # Truncated: PyMC has no signature for it
            return None, ()
        if len(params) == len(node.op.ndims_params) and not any(_is_random(p) for p in params):
            return node.op, params
    return None, ()


def _is_random(param: Any) -> bool:
    """Whether a parameter is a distribution without a name of its own, as that of Censored is."""
    is_variable = param.owner is not None and isinstance(param.owner.op, RandomVariable | SymbolicRandomVariable)
    return is_variable and param.name is None


def _terms(entry: Entry, latents: set[Any]) -> list[Entry]:
    """A density with the sums in it taken apart, where the user wrote it: each number hangs on fewer latents then."""
    name, graph, op, _, value = entry
    if op is not None and not isinstance(op, CustomDistRV | CustomSymbolicDistRV):
        return [entry]
    terms = addends(graph, latents)
    if terms == [graph]:
        return [entry]
    same = [value is not None and term.type.shape == value.type.shape for term in terms]
    return [(name, term, None, (), value if fits else None) for term, fits in zip(terms, same)]


def _component_label(component: Any) -> str:
    name = getattr(component.owner.op, "_print_name", None)
    return name[0] if name else type(component.owner.op).__name__


def _names_above(variable: Any) -> set[str]:
    return {v.name for v in ancestors([variable]) if v.name}
