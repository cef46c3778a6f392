"""CLIP's configs as transformers has them and as open_clip has them, in both directions."""

from typing import Any

from soupkit.checkpoint.formats.fields import Fields
from soupkit.checkpoint.formats.weight_files import CONFIG, PREPROCESSOR_CONFIG
from soupkit.errors import ArchitectureError, CheckpointError

OPENAI_MEAN = [0.48145466, 0.4578275, 0.40821073]
OPENAI_STD = [0.26862954, 0.26130258, 0.27577711]
_INEXPRESSIBLE = "open_clip cannot build this model; choose ingredients that are CLIPs as OpenAI's"
_STAYS = "keep it in open_clip's form: --to open_clip"


def convert_config(config: dict[str, Any], preprocessor: dict[str, Any] | None, where: str) -> dict[str, Any]:
    """Return open_clip's config of a transformers CLIP `config.json` and `preprocessor_config.json`.

    Values that open_clip takes for granted are left out, so that a config can be recognised as one of its own. Raises
    CheckpointError for what open_clip's CLIP cannot express.
    """
    fields = Fields(config, where)
    text, vision = fields.section("text_config"), fields.section("vision_config")
    activations = {text.text("hidden_act", "quick_gelu"), vision.text("hidden_act", "quick_gelu")}
    if len(activations) != 1 or not activations <= {"quick_gelu", "gelu"}:
        raise CheckpointError(
            f"has activations that open_clip's CLIP lacks: {', '.join(sorted(activations))}", where, _INEXPRESSIBLE
        )
    if {text.number("layer_norm_eps", 1e-5), vision.number("layer_norm_eps", 1e-5)} != {1e-5}:
        raise CheckpointError("has a layer_norm_eps other than open_clip's 1e-5", where, _INEXPRESSIBLE)
    width, heads = vision.size("hidden_size", 768), vision.size("num_attention_heads", 12)
    image_size = vision.size("image_size", 224)
    vision_cfg = {
        "image_size": image_size,
        "layers": vision.size("num_hidden_layers", 12),
        "width": width,
        **({"head_width": width // heads} if width // heads != 64 else {}),
        **_mlp_ratio(vision.size("intermediate_size", 3072), width),
        "patch_size": vision.size("patch_size", 32),
    }
    text_width = text.size("hidden_size", 512)
    text_cfg = {
        "context_length": text.size("max_position_embeddings", 77),
        "vocab_size": text.size("vocab_size", 49408),
        "width": text_width,
        "heads": text.size("num_attention_heads", 8),
        "layers": text.size("num_hidden_layers", 12),
        **_mlp_ratio(text.size("intermediate_size", 2048), text_width),
    }
    model_cfg = {
        "embed_dim": fields.size("projection_dim", 512),
        **({"quick_gelu": True} if activations == {"quick_gelu"} else {}),
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }
    return {"model_cfg": model_cfg, "preprocess_cfg": to_preprocess(preprocessor or {}, image_size, where)}


def _mlp_ratio(hidden: int, width: int) -> dict[str, float]:
    return {} if hidden == 4 * width else {"mlp_ratio": hidden / width}


def to_preprocess(preprocessor: dict[str, Any], image_size: int, where: str, *, crops: bool = True) -> dict[str, Any]:
    """Return open_clip's preprocessing of a `preprocessor_config.json`: what crops the middle resizes the shorter side,
    what does not squashes. `crops` is what it does where the file does not say it.

    Raises CheckpointError, about `where`, for fields of another kind than they have to be.
    """
    fields = Fields(preprocessor, f"{where}, its preprocessing")
    crops = fields.flag("do_center_crop", crops)
    mean, std = (OPENAI_MEAN, OPENAI_STD) if crops else ([0.5] * 3, [0.5] * 3)
    return {
        "size": _side(fields, "crop_size" if crops else "size", image_size),
        "mode": "RGB",
        "mean": fields.numbers("image_mean", mean),
        "std": fields.numbers("image_std", std),
        "interpolation": {2: "bilinear", 3: "bicubic"}.get(fields.size("resample", 3), "bicubic"),
        "resize_mode": "shortest" if crops else "squash",
        "fill_color": 0,
    }


def _side(fields: Fields, name: str, default: int) -> int:
    """Return the length of a side: `{"height": 224}`, `{"shortest_edge": 224}` or 224."""
    value = fields.values.get(name)
    if isinstance(value, dict):
        inner = fields.section(name)
        return inner.size("height" if "height" in value else "shortest_edge", default)
    return default if value is None else fields.size(name, default)


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
