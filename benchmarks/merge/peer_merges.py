"""The peers, each as its own documentation uses it; run by `benchmarks.merge speed` in the peers' environment.

    python peer_merges.py mergekit|mergekit-yaml|mergekit-yaml-async|sd-mecha|torch-loop OUT IN IN [IN ...]
    python peer_merges.py mergekit-file OUT YAML

Prints the seconds of the merge itself, imports left out, as JSON. Knows nothing of soupkit.
"""

import json
import os
import sys
import time
from pathlib import Path

WEIGHTS = "open_clip_model.safetensors"
FASTEST = ("--lazy-unpickle", "--async-write", "--write-threads", "2", "--quiet")


def torch_loop(inputs: list[str], output: str) -> float:
    """The loop of the model-soups scripts: load each state dict whole, add its share, save."""
    import torch
    from safetensors.torch import load_file, save_file

    started = time.perf_counter()
    soup: dict[str, torch.Tensor] = {}
    for i, path in enumerate(inputs):
        state = load_file(os.path.join(path, WEIGHTS))
        for name, tensor in state.items():
            if i == 0:
                soup[name] = tensor.clone() * (1.0 / len(inputs))
            else:
                soup[name] = soup[name] + tensor * (1.0 / len(inputs))
    os.makedirs(output)
    save_file(soup, os.path.join(output, "model.safetensors"))
    return time.perf_counter() - started


def mergekit(inputs: list[str], output: str) -> float:
    """mergekit-pytorch with its linear method, as on its command line."""
    import yaml

    config = {
        "merge_method": "linear",
        "models": [{"model": os.path.join(p, WEIGHTS), "parameters": {"weight": 1.0}} for p in inputs],
    }
    os.makedirs(output)
    recipe = Path(output) / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config))
    return mergekit_file(str(recipe), output)


def mergekit_file(recipe: str, output: str, flags: tuple[str, ...] = ()) -> float:
    """mergekit-pytorch over a file of its own."""
    from click.testing import CliRunner
    from mergekit.scripts.merge_raw_pytorch import main

    os.makedirs(output, exist_ok=True)
    started = time.perf_counter()
    done = CliRunner().invoke(main, [recipe, output, *flags], catch_exceptions=False)
    seconds = time.perf_counter() - started
    if done.exit_code:
        raise RuntimeError(done.output)
    return seconds


def mergekit_yaml(inputs: list[str], output: str, *options: str) -> float:
    """mergekit-yaml with its linear method on folders of transformers', in the least memory that it offers."""
    import yaml
    from click.testing import CliRunner
    from mergekit.scripts.run_yaml import main

    models = [{"model": path, "parameters": {"weight": 1.0}} for path in inputs]
    config = {"merge_method": "linear", "models": models, "dtype": "bfloat16"}
    os.makedirs(output)
    recipe = Path(output) / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(config))
    arguments = [str(recipe), output, "--lazy-unpickle", "--low-cpu-memory", *options]
    started = time.perf_counter()
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    seconds = time.perf_counter() - started
    if done.exit_code:
        raise RuntimeError(done.output)
    return seconds


def mergekit_yaml_async(inputs: list[str], output: str) -> float:
    """The same, with its output written by a thread of its own."""
    return mergekit_yaml(inputs, output, "--async-write")


def sd_mecha(inputs: list[str], output: str) -> float:
    """sd-mecha's n_average on the files, in float32, written as bfloat16 where the inputs are."""
    import sd_mecha
    import torch
    from safetensors import safe_open

    with safe_open(os.path.join(inputs[0], WEIGHTS), framework="pt") as file:
        dtype = file.get_tensor(max(file.keys(), key=lambda k: len(file.get_slice(k).get_shape()))).dtype
    started = time.perf_counter()
    os.makedirs(output)
    models = [sd_mecha.model(os.path.abspath(os.path.join(p, WEIGHTS))) for p in inputs]
    recipe = sd_mecha.n_average(*models)
    sd_mecha.merge(
        recipe,
        output=os.path.abspath(os.path.join(output, "model.safetensors")),
        merge_device="cpu",
        merge_dtype=torch.float32,
        output_device="cpu",
        output_dtype=dtype,
    )
    return time.perf_counter() - started


if __name__ == "__main__":
    which, out, *sources = sys.argv[1:]
    if which == "mergekit-file":
        seconds = mergekit_file(sources[0], out, FASTEST)
    else:
        work = {
            "torch-loop": torch_loop,
            "mergekit": mergekit,
            "mergekit-yaml": mergekit_yaml,
            "mergekit-yaml-async": mergekit_yaml_async,
            "sd-mecha": sd_mecha,
        }[which]
        seconds = work(sources, out)
    print("\n" + json.dumps({"merge": seconds}))
