"""In what two configs of open_clip differ: in what it builds from them, however they are written."""

from dataclasses import asdict
from typing import Any

from soupkit.checkpoint.architecture import CLASS_NAMES, Config

# They begin a training, or act in it alone: the same weights compute the same with any of them.
_TRAINING_ALONE = frozenset({
    "patch_dropout", "timm_drop", "timm_drop_path", "timm_model_pretrained", "hf_model_pretrained",
    "init_logit_scale", "init_logit_bias", "ls_init_value",
})  # fmt: skip


def config_differences(a: Config, b: Config) -> dict[str, tuple[Any, Any]]:
    """Compare two configs; returns dotted keys with both values, where they differ (None: open_clip has no default).

    What only names, describes or trains (`pretrained`, patch dropout) is left out, and a default that one of them
    writes out makes no difference. Defaults are open_clip's own, which is imported where the configs are written
    differently.
    """
    flat_a, flat_b = _flatten(a), _flatten(b)
    if flat_a and flat_b and flat_a != flat_b:
        flat_a, flat_b = _flatten(_written_out(a)), _flatten(_written_out(b))
    keys = [*flat_a, *(k for k in flat_b if k not in flat_a)]
    return {k: (flat_a.get(k), flat_b.get(k)) for k in keys if flat_a.get(k) != flat_b.get(k)}


def _written_out(config: Config) -> Config:
    """Return what open_clip reads of a config, with the defaults of what it does not name."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg
    from open_clip.transform import PreprocessCfg

    model = dict(config.get("model_cfg") or {})
    vision = asdict(CLIPVisionCfg()) | dict(model.get("vision_cfg") or {})
    text = asdict(CLIPTextCfg()) | dict(model.get("text_cfg") or {})
    # open_clip takes the size of the image tower, whatever the preprocessing says
    preprocess = asdict(PreprocessCfg()) | dict(config.get("preprocess_cfg") or {}) | {"size": vision["image_size"]}
    model = {"quick_gelu": False, "custom_text": False} | model | {"vision_cfg": vision, "text_cfg": text}
    return {**config, "model_cfg": model, "preprocess_cfg": preprocess}


def _flatten(config: Config) -> dict[str, Any]:
    flat: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else key)
        elif path.rpartition(".")[2] not in _TRAINING_ALONE:
            flat[path] = _plain(path, value)

    # open_clip reads these two; the rest of the file ("pretrained", notes) does not change what a model computes
    for section in ("model_cfg", "preprocess_cfg"):
        walk(config.get(section) or {}, section)
    # What the outputs of a head are called: an average of outputs that stand in another order would be none.
    names = config.get(CLASS_NAMES)
    return flat | {f"{CLASS_NAMES}.{i}": name for i, name in enumerate(names if isinstance(names, list) else ())}


def _plain(key: str, value: Any) -> Any:
    """Return lists for tuples, and 224 for [224, 224] where it is a size."""
    value = list(value) if isinstance(value, tuple) else value
    if (
        key.endswith((".size", ".image_size"))
        and isinstance(value, list)
        and value
        and all(n == value[0] for n in value)
    ):
        return value[0]
    return value
