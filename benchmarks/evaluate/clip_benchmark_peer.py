"""clip-benchmark at work, in an environment of its own: prints the seconds of each model, start-up excluded.

    python clip_benchmark_peer.py FOLDER MODEL...

Runs under the peer's Python and imports nothing of soupkit. A model's seconds hold what clip-benchmark does for every
model: build the data set and its loader, the classifier, and the pass.
"""

import json
import sys
import time

import open_clip
import torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics.zeroshot_classification import run_classification, zero_shot_classifier


def main() -> None:
    folder, *models = sys.argv[1:]
    seconds = []
    for path in models:
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{path}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
        model.eval()
        started = time.perf_counter()
        dataset = build_dataset("wds/images", root=folder, transform=transform, split="test")
        loader = torch.utils.data.DataLoader(dataset.batched(64), batch_size=None, num_workers=2)
        classifier = zero_shot_classifier(model, tokenizer, dataset.classes, dataset.templates, "cpu", amp=False)
        logits, target = run_classification(model, classifier, loader, "cpu", amp=False)
        hits = int((logits.argmax(dim=1) == target).sum())
        seconds.append(time.perf_counter() - started)
        print(f"{path}: {hits} of {len(target)}", file=sys.stderr)
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
