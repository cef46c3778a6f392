"""What decays and how fast each layer learns, beside open_clip's own split."""

from soupkit.training.optimizer import build_optimizer
from tests.training.runs import entry, model_of


def test_what_decays_is_what_decays_in_open_clip() -> None:
    model = model_of(entry(weight_decay=0.2))
    optimizer = build_optimizer(model, entry(weight_decay=0.2))
    decayed = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    for name, p in model.named_parameters():
        excluded = p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
        assert (id(p) in decayed) == (not excluded), name
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


def test_layer_decay_slows_what_is_far_from_the_output() -> None:
    run = entry(layer_decay=0.5)
    model = model_of(run)
    scale = {id(p): g["lr_scale"] for g in build_optimizer(model, run).param_groups for p in g["params"]}
    named = {n: scale[id(p)] for n, p in model.named_parameters()}
    assert named["visual.proj"] == named["visual.transformer.resblocks.1.mlp.c_fc.weight"] == 1.0
    assert named["visual.transformer.resblocks.0.mlp.c_fc.weight"] == named["visual.conv1.weight"] == 0.5
