"""mergekit's methods and what their words are called here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

EVERYWHERE = ("int8_mask",)  # how mergekit holds its masks: no part of the result
_JOINED = {"normalize": "normalize", "lambda": "scale"}
_RESCALE = {"rescale": {True: ("rescale", "l1"), False: ("rescale", "none")}}
_WITHOUT = {"rescale": {False: None}}


@dataclass(frozen=True, slots=True)
class Method:
    """One of mergekit's methods: what its parameters are called here. `shared` have one value, `each` one for every
    model; `words` are those whose values have other names, None for one that needs no name; `unlike` are our
    parameters whose default is another than mergekit's. `base` is mergekit's base model: ours, the first ingredient,
    or one of the ingredients."""

    shared: Mapping[str, str] = field(default_factory=dict)
    each: Mapping[str, str] = field(default_factory=dict)
    words: Mapping[str, Mapping[Any, tuple[str, Any] | None]] = field(default_factory=dict)
    unlike: Mapping[str, Any] = field(default_factory=dict)
    base: str = "base"


_SPARSE = {"weight": "weight", "density": "density"}
METHODS = {
    "linear": Method({"normalize": "normalize"}, {"weight": "weight"}, base="ingredient"),
    "slerp": Method({"t": "t"}, base="first"),
    "nuslerp": Method(
        {},
        {"weight": "weight"},
        {
            "nuslerp_flatten": {True: None, False: ("over", "rows")},
            "nuslerp_row_wise": {True: ("over", "columns"), False: None},
        },
    ),
    "multislerp": Method({"normalize_weights": "normalize"}, {"weight": "weight"}),
    "karcher": Method({"max_iter": "iterations", "tol": "tolerance"}, base="ingredient"),
    "model_stock": Method({}, {}, {"filter_wise": {True: ("over", "rows"), False: None}}, {"floor": 1e-6}),
    "task_arithmetic": Method({"normalize": "normalize"}, {"weight": "scale"}, _WITHOUT),
    "ties": Method(_JOINED, _SPARSE, _WITHOUT, {"density": 1.0, "trim": "tensor"}),
    "dare_linear": Method(_JOINED, _SPARSE, _RESCALE, {"density": 1.0, "rescale": "l1"}),
    "dare_ties": Method(_JOINED, _SPARSE, _RESCALE, {"density": 1.0, "rescale": "l1"}),
    "della": Method(_JOINED, {**_SPARSE, "epsilon": "epsilon"}, _RESCALE, {"density": 1.0, "rescale": "l1"}),
    "della_linear": Method(_JOINED, {**_SPARSE, "epsilon": "epsilon"}, _RESCALE, {"density": 1.0, "rescale": "l1"}),
    "breadcrumbs": Method(_JOINED, {**_SPARSE, "gamma": "gamma"}, _WITHOUT, {"density": 1.0}),
    "breadcrumbs_ties": Method(_JOINED, {**_SPARSE, "gamma": "gamma"}, _WITHOUT, {"density": 1.0}),
    "sce": Method({"select_topk": "select"}, {}, {}, {"floor": 1e-6}),
    "ram": Method({"epsilon": "epsilon"}),
    "ramplus_tl": Method({"epsilon": "epsilon", "r": "r", "alpha": "alpha"}),
    "nearswap": Method({"t": "t"}),
    "arcee_fusion": Method(),
}
NO_DEFAULT = ("weight", "t")  # mergekit asks for them
