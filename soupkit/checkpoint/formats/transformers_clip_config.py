"""CLIP's configs as transformers has them and as open_clip has them, in both directions."""

from typing import Any

from soupkit.checkpoint.formats.weight_files import CONFIG, PREPROCESSOR_CONFIG
from soupkit.errors import ArchitectureError, CheckpointError

OPENAI_MEAN = [0.48145466, 0.4578275, 0.40821073]
OPENAI_STD = [0.26862954, 0.26130258, 0.27577711]
_INEXPRESSIBLE = "open_clip cannot build this model; choose ingredients that are CLIPs as OpenAI's"
_DAMAGED = "correct it, or get the config again"
_SIZES = {
    "hidden_size", "num_attention_heads", "image_size", "num_hidden_layers", "intermediate_size", "patch_size",
    "max_position_embeddings", "vocab_size", "projection_dim",
}  # fmt: skip
_STAYS = "keep it in open_clip's form: --to open_clip"


def convert_config(config: dict[str, Any], preprocessor: dict[str, Any] | None, where: str) -> dict[str, Any]:
    """Return open_clip's config of a transformers CLIP `config.json` and `preprocessor_config.json`.

    Values that open_clip takes for granted are left out, so that a config can be recognised as one of its own. Raises
    CheckpointError for what open_clip's CLIP cannot express.
    """
    text, vision = (_section(config, name, where) for name in ("text_config", "vision_config"))
    _check_sizes(config, "", where)
    activations = {text.get("hidden_act", "quick_gelu"), vision.get("hidden_act", "quick_gelu")}
    if len(activations) != 1 or not activations <= {"quick_gelu", "gelu"}:
        raise CheckpointError(
            f"has activations that open_clip's CLIP lacks: {', '.join(sorted(activations))}", where, _INEXPRESSIBLE
        )
    if {text.get("layer_norm_eps", 1e-5), vision.get("layer_norm_eps", 1e-5)} != {1e-5}:
        raise CheckpointError("has a layer_norm_eps other than open_clip's 1e-5", where, _INEXPRESSIBLE)
    width, heads = vision.get("hidden_size", 768), vision.get("num_attention_heads", 12)
    vision_cfg = {
        "image_size": vision.get("image_size", 224),
        "layers": vision.get("num_hidden_layers", 12),
        "width": width,
        **({"head_width": width // heads} if width // heads != 64 else {}),
        **_mlp_ratio(vision.get("intermediate_size", 3072), width),
        "patch_size": vision.get("patch_size", 32),
    }
    text_width = text.get("hidden_size", 512)
    text_cfg = {
        "context_length": text.get("max_position_embeddings", 77),
        "vocab_size": text.get("vocab_size", 49408),
        "width": text_width,
        "heads": text.get("num_attention_heads", 8),
        "layers": text.get("num_hidden_layers", 12),
        **_mlp_ratio(text.get("intermediate_size", 2048), text_width),
    }
    model_cfg = {
        "embed_dim": config.get("projection_dim", 512),
        **({"quick_gelu": True} if activations == {"quick_gelu"} else {}),
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }
    return {"model_cfg": model_cfg, "preprocess_cfg": to_preprocess(preprocessor or {}, vision_cfg["image_size"])}


def _section(config: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise CheckpointError(f"its {name} should be a map, not {section!r:.80}", where, _DAMAGED)
    for key, kinds in (("hidden_act", (str,)), ("layer_norm_eps", (int, float))):
        if not isinstance(section.get(key, kinds[0]()), kinds):
            raise CheckpointError(f"its {name} has the {key} {section[key]!r:.80}", where, _DAMAGED)
    _check_sizes(section, f"{name}.", where)
    return section


def _check_sizes(section: dict[str, Any], prefix: str, where: str) -> None:
    for key in _SIZES & section.keys():
        value = section[key]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 31:
            raise CheckpointError(f"its {prefix}{key} should be a size, not {value!r:.80}", where, _DAMAGED)


def _mlp_ratio(hidden: int, width: int) -> dict[str, float]:
    return {} if hidden == 4 * width else {"mlp_ratio": hidden / width}


def to_preprocess(preprocessor: dict[str, Any], image_size: int, *, crops: bool = True) -> dict[str, Any]:
    """Return open_clip's preprocessing of a `preprocessor_config.json`: what crops the middle resizes the shorter side,
    what does not squashes. `crops` is what it does where the file does not say it."""
    crops = preprocessor.get("do_center_crop", crops)
    mean, std = (OPENAI_MEAN, OPENAI_STD) if crops else ([0.5] * 3, [0.5] * 3)
    size = _side(preprocessor.get("crop_size" if crops else "size"), image_size)
    resample = preprocessor.get("resample", 3)
    return {
        "size": size,
        "mode": "RGB",
        "mean": preprocessor.get("image_mean", mean),
        "std": preprocessor.get("image_std", std),
        "interpolation": "bilinear" if resample == 2 else "bicubic",
        "resize_mode": "shortest" if crops else "squash",
        "fill_color": 0,
    }


def _side(size: Any, default: int) -> Any:
    if isinstance(size, dict):
        return size.get("height", size.get("shortest_edge", default))
    return size if size is not None else default


# What a config may say for transformers' CLIPModel to compute the same; the values are open_clip's defaults.
_EXPRESSIBLE = {
    "": {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg", "init_logit_scale"},
    "vision_cfg": {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "patch_dropout"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}


def to_transformers_configs(config: dict[str, Any], where: object) -> dict[str, dict[str, Any]]:
    """Return transformers' `config.json` and `preprocessor_config.json` of an `open_clip_config.json`.

    Raises ArchitectureError, about `where`, for a model or preprocessing that CLIPModel cannot express.
    """
    model, preprocess = config["model_cfg"], config.get("preprocess_cfg") or {}
    vision, text = model["vision_cfg"], model["text_cfg"]
    for section, keys in _EXPRESSIBLE.items():
        values = model[section] if section else model
        if odd := sorted(key for key, value in values.items() if key not in keys and value not in (None, False)):
            name = f"{section}.{odd[0]}" if section else odd[0]
            raise ArchitectureError(f"cannot become transformers' CLIPModel: it has {name}", where, _STAYS)
    if not isinstance(vision.get("layers", 12), int) or not isinstance(vision.get("image_size", 224), int):
        raise ArchitectureError(
            "cannot become transformers' CLIPModel: its image tower is no ViT of square images", where, _STAYS
        )
    act = "quick_gelu" if model.get("quick_gelu") else "gelu"
    width, text_width = vision.get("width", 768), text.get("width", 512)
    vocabulary = text.get("vocab_size", 49408)
    shared = {"hidden_act": act, "layer_norm_eps": 1e-5, "projection_dim": model["embed_dim"]}
    return {
        CONFIG: {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": model["embed_dim"],
            "text_config": {
                **shared,
                "model_type": "clip_text_model",
                "hidden_size": text_width,
                "intermediate_size": int(text_width * text.get("mlp_ratio", 4.0)),
                "num_hidden_layers": text.get("layers", 12),
                "num_attention_heads": text.get("heads", 8),
                "max_position_embeddings": text.get("context_length", 77),
                "vocab_size": vocabulary,
                # open_clip takes the feature at the token of the highest number, which is the end of the text
                "bos_token_id": vocabulary - 2,
                "eos_token_id": vocabulary - 1,
            },
            "vision_config": {
                **shared,
                "model_type": "clip_vision_model",
                "hidden_size": width,
                "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
                "num_hidden_layers": vision.get("layers", 12),
                "num_attention_heads": width // vision.get("head_width", 64),
                "image_size": vision.get("image_size", 224),
                "patch_size": vision.get("patch_size", 16),
            },
        },
        PREPROCESSOR_CONFIG: to_preprocessor(preprocess, vision.get("image_size", 224), where),
    }


def to_preprocessor(
    preprocess: dict[str, Any], size: int, where: object, kind: str = "CLIPImageProcessor"
) -> dict[str, Any]:
    """Return the `preprocessor_config.json`, for a processor of `kind`, of a `preprocess_cfg`.

    Raises ArchitectureError, about `where`, for what such a processor does not do.
    """
    mode = preprocess.get("resize_mode", "shortest")
    resample = {"bilinear": 2, "bicubic": 3}.get(preprocess.get("interpolation", "bicubic"))
    if mode not in ("shortest", "squash") or resample is None:
        raise ArchitectureError(
            "has preprocessing that transformers' processors do not do", where,
            "it resizes the shorter side or squashes, bicubic or bilinear",
        )  # fmt: skip
    square = {"height": size, "width": size}
    crops = mode == "shortest"
    return {
        "image_processor_type": kind,
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size} if crops else square,
        "resample": resample,
        "do_center_crop": crops,
        "crop_size": square,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.get("mean", OPENAI_MEAN)),
        "image_std": list(preprocess.get("std", OPENAI_STD)),
    }
