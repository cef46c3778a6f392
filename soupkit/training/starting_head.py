"""What a classification head begins with: the zero-shot classifier (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482),
or a linear probe (LP-FT: Kumar et al. 2022, https://arxiv.org/abs/2202.10054)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from soupkit.checkpoint.architecture import CLASS_NAMES, Config
from soupkit.errors import DataError
from soupkit.evaluation import EvaluationOptions, Evaluator
from soupkit.evaluation.adapter import logit_scale, open_tokenizer
from soupkit.evaluation.classifier import zero_shot_classifier
from soupkit.evaluation.probe import LinearClassifier, Probe, fit_linear
from soupkit.evaluation.prompts import PromptEncoder, fill_templates, tokenize
from soupkit.evaluation.task import Task
from soupkit.progress import Progress
from soupkit.training.data.class_outputs import outputs_of
from soupkit.training.data.sources import Source, open_labelled, open_sources
from soupkit.training.entry import TrainEntry
from soupkit.training.model import Start
from soupkit.training.options import TrainOptions
from soupkit.training.order import part_of_classes, seed_of
from soupkit.training.randomness import undisturbed

Head = tuple[Tensor, Tensor]  # weight float32 [classes, features], bias float32 [classes]


def zero_shot_head(clip: nn.Module, entry: TrainEntry, start: Start, options: TrainOptions, progress: Progress) -> Head:
    """Return the zero-shot classifier of `clip`, multiplied by its logit scale, and a bias of 0.

    Class names are those of the run's head, templates those of the first source of data. Logits are what the CLIP gives
    for the prompts: before its first step the run scores what it scores zero-shot.
    """
    names, task = start.config[CLASS_NAMES], open_labelled(entry.data[0])
    device = next(clip.parameters()).device
    tokenizer = open_tokenizer(start.config, start.tokenizer_files, entry.init or "model")
    prompts = tokenize(tokenizer, fill_templates(names, task.templates, task.name))
    training = clip.training
    clip.eval()
    directions = zero_shot_classifier(PromptEncoder(clip, prompts, device), len(names))
    clip.train(training)
    weight = directions.T.double() * logit_scale(clip)
    progress.note(f"the head begins as the zero-shot classifier of {len(names):,} classes, {len(prompts):,} prompts")
    return weight.float().cpu().clone(), torch.zeros(len(names))


def probe_head(clip: nn.Module, entry: TrainEntry, start: Start, options: TrainOptions, progress: Progress) -> Head:
    """Return a linear probe on the features of the run's training images, without augmentation.

    Fitted as `evaluate --probe all` fits one, to those images that the run trains on (`share`). Raises DataError for a
    class without an image, and where scikit-learn is not installed.
    """
    sources = open_sources(entry)
    tasks = [source.task for source in sources if source.task is not None]
    kept = [_trained_on(entry, i, source) for i, source in enumerate(sources)]
    features, labels = _features(clip, start.config, tasks, kept, start, options, progress)
    names = start.config[CLASS_NAMES]
    outputs = [np.array(of_task) for of_task in outputs_of(start.config, tasks)]
    own = np.concatenate([to[label] for to, label in zip(outputs, labels, strict=True)])
    if missing := sorted(set(range(len(names))) - set(own.tolist())):
        what = f"have no image of {names[missing[0]]!r} ({len(missing)} of {len(names)} classes) to fit a probe to"
        raise DataError(what, "data", "begin the head by head: zero_shot, or take the classes out of the data")
    fitted: LinearClassifier = fit_linear(np.concatenate(features), own, Probe(seed=entry.seed))
    progress.note(f"the head begins as a linear probe: C = {fitted.c:.3g}, fitted to {len(own):,} images")
    return torch.from_numpy(fitted.weight).float(), torch.from_numpy(fitted.bias).float()


def _trained_on(entry: TrainEntry, i: int, source: Source) -> np.ndarray:
    """Return the numbers of the images of source number `i` that the run trains on."""
    share = entry.data[i].share
    if share == 1 or source.labels is None:
        return np.arange(len(source))
    return np.concatenate(part_of_classes(source.labels(), seed_of(entry.seed, "order", i), share))


def _features(
    clip: nn.Module, config: Config, tasks: Sequence[Task], kept: Sequence[np.ndarray], start: Start,
    options: TrainOptions, progress: Progress,
) -> tuple[list[np.ndarray], list[np.ndarray]]:  # fmt: skip
    """Return features, float32 [n, d], and labels, int64 [n], of the images `kept` (int64) of each task."""
    evaluation = EvaluationOptions(device=options.device, cache=options.cache, precision="fp32", skip_corrupt=True)
    features, labels = [], []
    with (
        undisturbed(),
        Evaluator(
            config, tasks, evaluation, tokenizer_files=start.tokenizer_files, where="head", progress=progress
        ) as evaluator,
    ):
        evaluator.model.load_state_dict(clip.state_dict())
        for i, rows in enumerate(kept):
            pixels = evaluator.pixels[i]
            rows = np.intersect1d(rows, pixels.rows)
            features.append(evaluator.features(i, rows, progress).numpy())
            labels.append(pixels.labels[rows])
    return features, labels
