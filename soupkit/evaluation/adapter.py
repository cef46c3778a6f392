"""All that soupkit knows of open_clip's insides: building a model from a config, its tokenizer, and its text tower.

A model is built from the config that belongs to the weights, without a download; its parameters are then filled from a
checkpoint, again and again where several candidates are scored.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from soupkit.checkpoint.architecture import Config
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.dtypes import DTYPES
from soupkit.checkpoint.formats.weight_files import OPEN_CLIP_CONFIG
from soupkit.errors import ArchitectureError, CheckpointError
from soupkit.progress import SILENT, Progress
from soupkit.scratch import ScratchDirectory

Tokenizer = Callable[[list[str]], Tensor]
_CONFIG_HINT = "weights and open_clip_config.json are not of one model; name the right one with --model"


@dataclass(frozen=True, slots=True)
class Block:
    """One residual block of a transformer: what pre-norm self-attention and an MLP are made of."""

    norm_1: nn.Module
    in_weight: Tensor
    in_bias: Tensor | None
    out_weight: Tensor
    out_bias: Tensor | None
    heads: int
    scale_1: nn.Module
    norm_2: nn.Module
    mlp: nn.Module
    scale_2: nn.Module


@dataclass(frozen=True, slots=True)
class CausalTextTower:
    """A text tower in which no token sees a later one, and whose feature is that of the end-of-text token.

    `embed(tokens [n], positions [n])` gives [n, width]; `finish([n, width])` gives features [n, embed];
    `end(tokens [n, context])` gives the position [n] of the token that is pooled.
    """

    blocks: tuple[Block, ...]
    embed: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[Tensor], Tensor]
    end: Callable[[Tensor], Tensor]


@contextmanager
def _as_local_dir(config: Config, tokenizer_files: tuple[Path, ...] = ()) -> Iterator[str]:
    """Yield a name under which open_clip finds `config`: a directory of its own kind."""
    with ScratchDirectory() as directory:
        (Path(directory) / OPEN_CLIP_CONFIG).write_text(json.dumps(config))
        for file in tokenizer_files:
            (Path(directory) / file.name).symlink_to(file.resolve())
        yield f"local-dir:{directory}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip from warning that a model has no weights yet."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


# Of tensors and of torch.nn.init; the rest of the latter is made of these.
_RANDOM = ("normal_", "uniform_", "erfinv_", "kaiming_uniform_")


class _Unfilled(TorchFunctionMode):
    """Lets no tensor be filled with random numbers in place: what a checkpoint fills need not be drawn before.

    Drawing them takes a second for every 100 million parameters.
    """

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") in _RANDOM:
            return arguments[0] if arguments else (named or {})["tensor"]
        return function(*arguments, **(named or {}))


def asked_of_the_hub(config: Config) -> list[str]:
    """Return the parts of a model that its config describes by a name on the Hub, which open_clip then asks there."""
    model_cfg = config["model_cfg"]
    image = model_cfg.get("vision_cfg", {}).get("timm_model_name")
    text = model_cfg.get("text_cfg", {}).get("hf_model_name")
    remote = isinstance(image, str) and image.startswith(("hf-hub:", "hf_hub:"))
    local = not isinstance(text, str) or Path(text).exists()
    return [f"its image tower {image}"] * remote + [f"its text tower {text}"] * (not local)


@contextmanager
def _no_code_of_others() -> Iterator[None]:
    """Let transformers refuse a model that needs code of its own. It would ask on the terminal whether to run it."""
    try:
        from transformers import dynamic_module_utils
    except ImportError:  # then no model can ask for it
        yield
        return
    patience = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = patience


def build_model(
    config: Config, device: torch.device, dtype: torch.dtype, *, random: bool = True, progress: Progress = SILENT
) -> nn.Module:
    """Build the model of an `open_clip_config.json`, with the random weights that training begins with; without
    `random` they are whatever lies in memory, to be filled from a checkpoint.

    Nothing is downloaded but the descriptions of towers that the config names on the Hub, which is said. No code of
    others runs. Raises ArchitectureError.
    """
    import open_clip

    text = config["model_cfg"].get("text_cfg", {})
    for part in asked_of_the_hub(config):
        progress.note(f"{part} is described on the Hub, which is asked for it")
    code = _no_code_of_others() if text.get("hf_model_name") else nullcontext()
    try:
        with _as_local_dir(config) as name, _quiet(), code, nullcontext() if random else _Unfilled():
            model = open_clip.create_model(name, load_weights=False, pretrained_hf=False)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        what = f"cannot be built by open_clip: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        hint = f"check its {OPEN_CLIP_CONFIG}"
        if "hf_model_name" in text:
            hint += f"; its text tower is {text['hf_model_name']}, described on the Hub"
        raise ArchitectureError(what, "the model", hint) from error
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def preprocess_of(config: Config) -> Config:
    """Return the preprocessing that open_clip uses for a model: its config's, at the size of its image tower."""
    size = config["model_cfg"].get("vision_cfg", {}).get("image_size", 224)
    return {**config.get("preprocess_cfg", {}), "size": size}


# What open_clip fits to a model when it loads weights of another resolution, context or loss.
_IMAGE_POSITIONS = "visual.positional_embedding"
_TEXT_POSITIONS = ("positional_embedding", "text.positional_embedding")


def fitted(model: nn.Module, checkpoint: Checkpoint) -> tuple[dict[str, Tensor], list[str]]:
    """Return those tensors of `checkpoint` that `model` has in another shape, or has alone, as open_clip fits them when
    it loads, and what is to be said of each.

    Position embeddings of images are resized bicubically on their grid, those of texts linearly, and a model of the
    SigLIP loss begins with a bias of 0 where the weights have none. Raises ArchitectureError for a grid that open_clip
    cannot resize.
    """
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    state, given = model.state_dict(), checkpoint.tensors
    tensors: dict[str, Tensor] = {}
    notes = []
    if "logit_bias" in state and "logit_bias" not in given:
        tensors["logit_bias"] = torch.zeros_like(state["logit_bias"])
        notes.append(f"{checkpoint.ref} has no logit_bias: it begins at 0, as open_clip has it")
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in given and given[name].shape != tuple(state[name].shape) and given[name].numel == 1:
            tensors[name] = checkpoint.read(name).reshape(state[name].shape)
    for name in (_IMAGE_POSITIONS, *_TEXT_POSITIONS):
        if name in state and name in given and given[name].shape[:1] != tuple(state[name].shape[:1]):
            one = {name: checkpoint.read(name).float()}
            before = len(one[name])
            try:
                (resize_pos_embed if name == _IMAGE_POSITIONS else resize_text_pos_embed)(one, model)
            except (AssertionError, RuntimeError, AttributeError) as error:
                what = f"cannot be resized: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"
                raise ArchitectureError(what, f"{checkpoint.ref}, tensor {name!r}", _CONFIG_HINT) from error
            tensors[name] = one[name]
            notes.append(f"{name} is resized from {before} to {len(one[name])} positions, as open_clip does it")
    return tensors, notes


def fill_model(model: nn.Module, checkpoint: Checkpoint, fitted: Mapping[str, Tensor] = {}) -> None:
    """Copy the weights of `checkpoint` into `model`, in place; those that are `fitted` from there.

    Raises ArchitectureError where they do not fit, CheckpointError for a file that was cut short since it was opened.
    """
    state = model.state_dict()
    if missing := [n for n in state if n not in checkpoint.tensors and n not in fitted]:
        raise ArchitectureError(f"lacks {missing[0]!r}, which its config asks for", checkpoint.ref, _CONFIG_HINT)
    if extra := [n for n in checkpoint.tensors if n not in state]:
        raise ArchitectureError(f"holds {extra[0]!r}, which its config does not know", checkpoint.ref, _CONFIG_HINT)
    with torch.no_grad():
        for name, tensor in state.items():
            if name in fitted:
                tensor.copy_(fitted[name])
                continue
            if tuple(tensor.shape) != checkpoint.tensors[name].shape:
                shape = list(checkpoint.tensors[name].shape)
                what = f"is of shape {shape}, and its config asks for {list(tensor.shape)}"
                raise ArchitectureError(what, f"{checkpoint.ref}, tensor {name!r}", _CONFIG_HINT)
            stored = getattr(torch, DTYPES[checkpoint.tensors[name].dtype].torch_name)
            if tensor.is_cpu and tensor.is_contiguous() and tensor.dtype == stored:  # no second copy in memory
                checkpoint.read_into(name, 0, tensor.reshape(-1).view(torch.uint8).numpy())
            else:
                tensor.copy_(checkpoint.read(name))


def logit_scale(model: nn.Module, checkpoint: Checkpoint | None = None) -> float:
    """Return what a zero-shot model multiplies cosines by: that of the weights in `checkpoint`, as exactly as they are
    stored, or of those in `model`; 1 for a model that has none."""
    stored = getattr(model, "logit_scale", None)
    if checkpoint is not None and "logit_scale" in checkpoint.tensors:
        stored = checkpoint.read("logit_scale")
    return float(stored.detach().double().exp().reshape(-1)[0]) if isinstance(stored, Tensor) else 1.0


def open_tokenizer(config: Config, files: tuple[Path, ...], where: object) -> Tokenizer:
    """Return the tokenizer that the model's config names. Nothing is downloaded.

    Raises CheckpointError when the config names a tokenizer whose files are not beside the weights.
    """
    import open_clip

    text = config["model_cfg"].get("text_cfg", {})
    name = text.get("hf_tokenizer_name")
    if name and not files:
        raise CheckpointError(
            f"has the tokenizer {name!r}, whose files are not beside the weights",
            where,
            "put them there: tokenizer.json, tokenizer_config.json, special_tokens_map.json",
        )
    try:
        with _as_local_dir(config, files) as model_name:
            # Said here it counts before the config's own tokenizer_kwargs.
            return open_clip.get_tokenizer(model_name, **({"trust_remote_code": False} if name else {}))
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        raise CheckpointError(
            f"has a tokenizer that cannot be opened: {first}", where, f"its files are {[f.name for f in files]}"
        ) from error


def causal_text_tower(model: nn.Module) -> CausalTextTower | None:
    """Return the text tower of `model` in parts; None where it is not causal, pooled elsewhere, or not known here.

    Whether the parts compute what `encode_text` does is for the caller to check.
    """
    text: Any = getattr(model, "text", model)
    pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
    mask = getattr(text, "attn_mask", None)
    plain = getattr(text, "cls_emb", None) is None and not getattr(text, "use_pad_mask", False)
    names = ("transformer", "token_embedding", "positional_embedding", "ln_final")
    if pool not in ("argmax", "eos") or not plain or not all(hasattr(text, n) for n in names) or not _is_causal(mask):
        return None
    blocks = [_block(b) for b in getattr(text.transformer, "resblocks", [])]
    if not blocks or any(b is None for b in blocks):
        return None
    eos: Any = getattr(text, "text_eos_id", getattr(text, "eos_id", None))

    def end(tokens: Tensor) -> Tensor:
        return tokens.argmax(dim=-1) if pool == "argmax" else tokens.eq(eos).int().argmax(dim=-1)

    def embed(tokens: Tensor, positions: Tensor) -> Tensor:
        return text.token_embedding(tokens) + text.positional_embedding[positions]

    def finish(x: Tensor) -> Tensor:
        x, projection = text.ln_final(x), text.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    return CausalTextTower(tuple(b for b in blocks if b is not None), embed, finish, end)


def _is_causal(mask: Any) -> bool:
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        return False
    above = torch.ones_like(mask, dtype=torch.bool).triu(1)
    return bool((mask[above] == float("-inf")).all() and (mask[~above] == 0).all())


def _block(block: Any) -> Block | None:
    attention: Any = getattr(block, "attn", None)
    if not isinstance(attention, nn.MultiheadAttention) or hasattr(block, "ln_1_kv"):
        return None
    if attention.in_proj_weight is None or attention.bias_k is not None or attention.add_zero_attn:
        return None
    if not all(isinstance(getattr(block, n, None), nn.Module) for n in ("ln_1", "ls_1", "ln_2", "mlp", "ls_2")):
        return None
    out = attention.out_proj
    return Block(
        norm_1=block.ln_1,
        in_weight=attention.in_proj_weight,
        in_bias=attention.in_proj_bias,
        out_weight=out.weight,
        out_bias=out.bias,
        heads=attention.num_heads,
        scale_1=block.ls_1,
        norm_2=block.ln_2,
        mlp=block.mlp,
        scale_2=block.ls_2,
    )
