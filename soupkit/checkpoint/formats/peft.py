"""Adapters of PEFT's: a folder with `adapter_config.json` and the factors of low-rank updates.

An update of a weight W (out x in) is scale * B A, with A (r x in), B (out x r) and scale = alpha / r (LoRA, Hu et al.
2021), or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023); with a magnitude m, the rows of W + scale * B A are then given
the lengths m (DoRA, Liu et al. 2024).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any

from soupkit.checkpoint.formats.fields import Fields
from soupkit.checkpoint.formats.folder import Folder, LocalFolder, matching, read_object
from soupkit.checkpoint.formats.table import Description, Family, Tensors, choose_weights, read_weights
from soupkit.checkpoint.formats.weight_files import TOKENIZER_PATTERNS, WEIGHT_NAMES, OutputFiles
from soupkit.checkpoint.tensors import TensorSpec
from soupkit.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
SIDE_FILES = (*TOKENIZER_PATTERNS, "chat_template*")
# What PEFT can do to a weight that is no plain product of two factors, by the keys of its config.
_OTHER_UPDATES = (
    "layer_replication", "use_qalora", "use_bdlora", "alora_invocation_tokens", "kasa_config", "arrow_config",
    "monteclora_config", "megatron_config", "target_parameters", "trainable_token_indices",
)  # fmt: skip
# Beginnings that change the base itself: factors saved as they are belong to that base, and not to the one on disk.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.(?P<part>weight|bias))?"
)
# PEFT (0.12 to 0.21) adds the update of an nn.MultiheadAttention's out_proj twice, in training as in use.
_OUT_PROJ = re.compile(r".*\.base_layer\.out_proj")
_WRAPPERS = frozenset({"base_layer", "modules_to_save"})


@dataclass(frozen=True, slots=True)
class Factors:
    """The update of one module: A (r x in), B (out x r), of a convolution with the kernel's axes after them; the
    `magnitude` of DoRA, and the `bias` that B brings. `embedding` says that the weight is one of an embedding, stored
    in x out. `own_name` is the module's as PEFT writes it; PEFT adds the update `times` times, which `scale` counts."""

    a: TensorSpec
    b: TensorSpec
    scale: float
    magnitude: TensorSpec | None = None
    bias: TensorSpec | None = None
    embedding: bool = False
    own_name: str = ""
    times: int = 1

    @property
    def rank(self) -> int:
        """The r of the factors."""
        return self.a.shape[0]

    @property
    def outputs(self) -> int:
        """The rows of the product."""
        return self.b.shape[0]

    @property
    def inputs(self) -> int:
        """The columns of the product; of a convolution the elements of a kernel."""
        return self.a.numel // self.rank


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as it was read: its folder, its config, the factors of each module by the module's name, and the
    tensors that it has in place of the base's, by theirs; `own_names` are those of the latter as PEFT writes them."""

    path: Path
    config: dict[str, Any]
    factors: dict[str, Factors]
    replaced: Tensors
    own_names: dict[str, str]

    @property
    def base(self) -> str | None:
        """What the config calls the model that the adapter is for."""
        base = self.config.get("base_model_name_or_path")
        return base if isinstance(base, str) and base else None

    @property
    def has_magnitudes(self) -> bool:
        """Whether it is a DoRA."""
        return any(factors.magnitude is not None for factors in self.factors.values())


def is_adapter(folder: Folder) -> bool:
    """Whether the folder is an adapter of PEFT's."""
    return ADAPTER_CONFIG in folder.names


def read_adapter(path: Path) -> Adapter:
    """Read the adapter in the folder `path`; no factor is read. Raises CheckpointError for one of another kind than
    LoRA, and for one whose config and tensors do not fit together."""
    folder = LocalFolder.list(path)
    config = read_object(folder, ADAPTER_CONFIG)
    if config is None:
        raise CheckpointError(f"has no {ADAPTER_CONFIG}", path, "name the folder that PEFT saved")
    _check_kind(config, path)
    _check_alone(folder)
    tensors, _ = read_weights(path / choose_weights(folder, PEFT))
    parts: dict[str, dict[str, TensorSpec]] = {}
    replaced: Tensors = {}
    own_names: dict[str, str] = {}
    for name, spec in tensors.items():
        plain = ".".join(word for word in name.removeprefix(PREFIX).split(".") if word not in _WRAPPERS)
        factor = _FACTOR.fullmatch(plain)
        if factor is not None:
            kind = factor["kind"] + (".bias" if factor["part"] == "bias" else "")
            parts.setdefault(factor["module"], {})[kind] = spec
            own_names[factor["module"]] = name[: name.rindex(f".{factor['kind']}")]
        elif "lora_" in plain:
            raise CheckpointError("is no factor that soupkit knows", f"{path}, tensor {name!r}", _by_peft(path))
        else:
            replaced[plain], own_names[plain] = spec, name
    where = f"{path / ADAPTER_CONFIG}"
    factors = {module: _factors(module, part, Fields(config, where), path) for module, part in parts.items()}
    for module, of_module in factors.items():
        times = 2 if _OUT_PROJ.fullmatch(own_names[module]) and module.removesuffix(".out_proj") in factors else 1
        factors[module] = replace(of_module, scale=times * of_module.scale, times=times, own_name=own_names[module])
    if not factors:
        raise CheckpointError("holds no factors of a LoRA", path, "choose another folder")
    return Adapter(path, config, factors, replaced, own_names)


def _check_kind(config: Mapping[str, Any], path: Path) -> None:
    kind = str(config.get("peft_type", "LORA"))
    if kind != "LORA":
        raise CheckpointError(f"is an adapter of the kind {kind[:40]}, and no LoRA", path, _by_peft(path))
    if other := next((key for key in _OTHER_UPDATES if config.get(key)), None):
        raise CheckpointError(f"is no plain LoRA: {other} is set", path / ADAPTER_CONFIG, _by_peft(path))
    begun = str(config.get("init_lora_weights")).lower()
    if begun.startswith(_CHANGES_BASE):
        raise CheckpointError(
            f"began as {begun[:20]}, which changes the base: its factors do not belong to the base on disk",
            path / ADAPTER_CONFIG,
            "save it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
        )


def _check_alone(folder: LocalFolder) -> None:
    """Raise CheckpointError for a folder that is a model too, or instead."""
    factors = [name for name in PEFT.weights if name in folder.names]
    model = [name for name in WEIGHT_NAMES if name in folder.names]
    if model:
        raise CheckpointError(
            f"is two things in one, an adapter by {ADAPTER_CONFIG} and a model by {model[0]}", folder,
            f"move the adapter into a folder of its own, or {ADAPTER_CONFIG} away, where it is in the model already",
        )  # fmt: skip
    if not factors:
        raise CheckpointError(
            f"has {ADAPTER_CONFIG} and no {ADAPTER_WEIGHTS}", folder, "get the adapter again, with its weights"
        )


def _by_peft(path: Path) -> str:
    return (
        'let PEFT put it into its model, and merge that: python -c "from peft import AutoPeftModel as A; '
        f'A.from_pretrained({str(path)!r}).merge_and_unload().save_pretrained({f"{path}-merged"!r})"'
    )


def _factors(module: str, parts: dict[str, TensorSpec], config: Fields, path: Path) -> Factors:
    embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    where = f"{path}, module {module!r}"
    if missing := next((name for name in names if name not in parts), None):
        raise CheckpointError(f"has no {missing}", where, "get the adapter again")
    a, b = (parts[name] for name in names)
    rank = a.shape[0] if a.shape else 0
    if len(a.shape) < 2 or len(b.shape) < 2 or b.shape[1] != rank or b.numel != b.shape[0] * rank:
        raise CheckpointError(
            f"has factors that do not multiply: {list(b.shape)} and {list(a.shape)}", where, _by_peft(path)
        )
    asked = int(_of_pattern(config, "rank_pattern", module, config.size("r", 8)))
    if asked != rank:
        raise CheckpointError(
            f"has factors of rank {rank}, and its config says {asked}", where, f"correct {ADAPTER_CONFIG}"
        )
    alpha = _of_pattern(config, "alpha_pattern", module, config.number("lora_alpha", 8))
    scale = alpha / sqrt(rank) if config.flag("use_rslora", False) else alpha / rank
    magnitude = parts.get("lora_magnitude_vector")
    if (magnitude is not None) != config.flag("use_dora", False):
        says = (
            "a magnitude, and no DoRA by its config" if magnitude is not None else "no magnitude, though it is a DoRA"
        )
        raise CheckpointError(f"has {says}", where, f"correct {ADAPTER_CONFIG}, or get the adapter again")
    return Factors(a, b, scale, magnitude, parts.get("lora_B.bias"), embedding)


def _of_pattern(config: Fields, key: str, module: str, default: float) -> float:
    """Return the value of the first pattern that describes the module, as PEFT matches it, or the default."""
    patterns = config.section(key)
    for pattern in patterns.values:
        try:
            found = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error as error:
            raise CheckpointError(f"is no pattern: {pattern!r}", patterns.where, "correct the config") from error
        if found:
            return patterns.number(pattern, default)
    return default


def describe(folder: Folder, tensors: Tensors) -> Description:
    """Return the factors as they are, for a look at the adapter alone."""
    base = (read_object(folder, ADAPTER_CONFIG) or {}).get("base_model_name_or_path")
    return Description(
        tensors,
        model=f"an adapter of {base}" if isinstance(base, str) and base else "an adapter",
        config_name=ADAPTER_CONFIG,
        side_files=matching(folder.names, SIDE_FILES),
    )


PEFT = Family(
    name="peft",
    summary="a LoRA, rsLoRA or DoRA as PEFT saves it: BASE+ADAPTER is the model with it",
    recognises=is_adapter,
    describe=describe,
    companions=(ADAPTER_CONFIG, *SIDE_FILES),
    weights=(ADAPTER_WEIGHTS, "adapter_model.bin"),
    output=OutputFiles(ADAPTER_WEIGHTS),
    indifferent=("tokenizer_config.json", "special_tokens_map.json", "chat_template*"),
)
