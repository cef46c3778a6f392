"""What goes into a model's linear layers, whatever module computes them: watched at torch's own functions."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import multi_head_attention_forward
from torch.overrides import TorchFunctionMode

_PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm)


class LayerInputs(TorchFunctionMode):
    """Shows what is multiplied with each of some weights, whatever module does it.

    `names` has them by address and shape; `take(name, inputs [..., in], transposed)` is called, where `transposed` says
    that the weight is [in, out].
    """

    def __init__(self, names: Mapping[tuple[int, torch.Size], str], take: Callable[[str, Tensor, bool], None]) -> None:
        super().__init__()
        self._names, self._take = names, take

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        given = named or {}
        if function is nn.functional.linear:
            self._show(arguments[0], arguments[1] if len(arguments) > 1 else given["weight"], transposed=False)
        elif function in _PRODUCTS and len(arguments) == 2:
            self._show(arguments[0], arguments[1], transposed=True)
        elif function is multi_head_attention_forward:
            self._attention(arguments, given)
        return function(*arguments, **given)

    def _show(self, inputs: Tensor, weight: Any, *, transposed: bool) -> None:
        if isinstance(weight, Tensor) and (name := self._names.get((weight.data_ptr(), weight.shape))) is not None:
            self._take(name, inputs, transposed)

    def _attention(self, arguments: tuple[Any, ...], given: Mapping[str, Any]) -> None:
        """Show the inputs of attention's projections, which torch computes within one function."""
        bound = signature(multi_head_attention_forward).bind(*arguments, **given).arguments
        if bound["query"] is bound["key"] is bound["value"] and bound.get("in_proj_weight") is not None:
            self._show(bound["query"], bound["in_proj_weight"], transposed=False)
        weight = bound["out_proj_weight"]
        identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        # What comes out of a projection that does nothing is what goes into it.
        before, _ = multi_head_attention_forward(**{**bound, "out_proj_weight": identity, "out_proj_bias": None})
        self._show(before, weight, transposed=False)
