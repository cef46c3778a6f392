"""How fast is the training step, and what does its loss hold? Beside open_clip's loss and its trainer's own loop.

    python -m benchmarks.train loss --batch 16384 --width 1024
    python -m benchmarks.train step --batches 256 512 1024
    python -m benchmarks.train accumulation --batches 512 1024 2048 4096
    python -m benchmarks.train trainer --batch 64 --workers 1 2 default --work /tmp/soupkit-benchmark
    python -m benchmarks.train cuda --model ViT-bigG-14 --batch 64

`loss`: value and gradient for a whole batch, against open_clip's `ClipLoss` with autograd, each in its own process:
seconds, the processor's seconds, and the peak of resident memory above what the process held with the features made.
The floor is the time of the four matrix products alone. `step`: a whole optimizer step, one pass, against
`train_one_epoch` of open_clip_train, which comes with open_clip_torch and so needs no environment of its own: the same
model, batches in memory, AdamW, float32. `accumulation`: the same over 8 micro-batches, against `--accum-freq 8`, as
the batch grows. Neither reads data. `trainer`: all of both trainers, data included (benchmarks/train_whole.py). `cuda`:
samples per second of a model with gradient checkpointing in bfloat16 and its share of the chip's rate for large matrix
products, unmasked and with half of the patches dropped. Ratios are taken round by round. `--clock processor` with
OMP_NUM_THREADS=1 is for a machine that has other work to do too. Prints Markdown; `--output` also saves it.
"""

import argparse
import json
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from benchmarks import train_whole
from benchmarks.machine import machine, spread

MICRO_BATCHES = 8
TOKENS = 16
VISION = {"image_size": 32, "layers": 4, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": TOKENS, "vocab_size": 512, "width": 64, "heads": 2, "layers": 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["loss", "step", "accumulation", "trainer", "cuda"])
    parser.add_argument("--batch", type=int, help="16384 for loss, 128 for trainer, 64 for cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    parser.add_argument("--width", type=int, default=1024, help="of the features")
    parser.add_argument("--model", default="ViT-bigG-14", help="of cuda")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40, help="of trainer")
    parser.add_argument(
        "--workers", nargs="+", default=["1", "2", "default"], help="of trainer: processes that decode, or default"
    )
    parser.add_argument("--work", type=Path, help="of trainer: directory for shards, runs and the peer")
    parser.add_argument("--clock", choices=["wall", "processor"], default="wall", help="of step, accumulation, trainer")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one-workers", default="default", help=argparse.SUPPRESS)
    parser.add_argument("--one", choices=["soupkit", "open_clip"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.batch = arguments.batch or {"trainer": 128, "cuda": 64}.get(arguments.what, 16384)
    if arguments.what == "trainer" and arguments.work is None:
        parser.error("--work is needed")
    if arguments.one:
        print(json.dumps(one_loss(arguments) if arguments.what == "loss" else train_whole.one(arguments)))
        return
    works = {
        "loss": loss, "step": step, "accumulation": accumulation, "trainer": train_whole.whole, "cuda": cuda,
    }  # fmt: skip
    text = "\n".join(works[arguments.what](arguments)) + "\n"
    print(text)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text)


def status(field: str) -> int:
    """Return a field of this process's memory, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def one_loss(arguments: Namespace) -> dict[str, float]:
    """Time one loss in this process: seconds, peak bytes above the features, the value, and the floor's seconds."""
    from open_clip.loss import ClipLoss

    from soupkit.training.loss import contrastive_gradients

    torch.manual_seed(0)
    n, width = arguments.batch, arguments.width
    image, text = (torch.nn.functional.normalize(torch.randn(n, width), dim=-1) for _ in range(2))
    scale = torch.tensor(50.0)
    small = [image[:512].clone().requires_grad_(), text[:512].clone().requires_grad_(), scale.clone().requires_grad_()]
    ClipLoss()(*small).backward()
    contrastive_gradients(image[:512], text[:512], scale)
    # Forget the peak of the imports.
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    started, worked = time.perf_counter(), time.process_time()
    if arguments.one == "soupkit":
        value = contrastive_gradients(image, text, scale).loss
    else:
        leaves = [tensor.requires_grad_() for tensor in (image, text, scale)]
        value = ClipLoss()(*leaves)
        value.backward()
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    peak = status("VmHWM") - before
    piece = min(n, 2048)
    a, b, out = image[:piece].detach(), text[:piece].detach().T.contiguous(), torch.empty(piece, piece)
    rate = piece * piece / least(lambda: torch.mm(a, b, out=out))
    floor = 4 * n * n / rate
    return {"seconds": seconds, "processor": processor, "peak": peak, "loss": value.item(), "floor": floor}


def least(work: Callable[[], object], times: int = 5) -> float:
    return min(timed(work) for _ in range(times))


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


def loss(arguments: Namespace) -> list[str]:
    """Compare time and memory of the loss of one batch."""
    found: dict[str, list[dict[str, float]]] = {"open_clip": [], "soupkit": []}
    for i in range(arguments.rounds):
        for name, runs in found.items():
            command = [sys.executable, "-m", "benchmarks.train", "loss", "--one", name]
            command += ["--batch", str(arguments.batch), "--width", str(arguments.width)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"  round {i + 1}, {name}: {runs[-1]}", file=sys.stderr)
    theirs, mine = found["open_clip"], found["soupkit"]
    lines = [
        f"## Contrastive loss, value and gradient: batch {arguments.batch:,}, width {arguments.width:,}, float32, CPU",
        "",
        f"{machine()}; torch {torch.__version__}; {arguments.rounds} rounds",
        "",
        "| | seconds | of open_clip's | processor's seconds | of open_clip's | peak, GB | of open_clip's |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, label in (("open_clip", "open_clip `ClipLoss`, autograd"), ("soupkit", "soupkit, in tiles")):
        cells = []
        for key, unit in (("seconds", 1), ("processor", 1), ("peak", 1e9)):
            ratios = [run[key] / other[key] for run, other in zip(found[name], theirs, strict=True)]
            cells += [spread([run[key] / unit for run in found[name]]), spread(ratios)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines.append(f"| floor: four products of N x N x D | {spread([run['floor'] for run in mine])} | | | | | |")
    difference = max(abs(a["loss"] - b["loss"]) for a, b in zip(mine, theirs, strict=True))
    return [*lines, "", f"Largest difference between the two losses: {difference:.1e}."]


def small_model(width: int) -> nn.Module:
    from open_clip.model import CLIP

    torch.manual_seed(0)
    return CLIP(width, dict(VISION), dict(TEXT), output_dict=True).train()


def batches(size: int, count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    image = VISION["image_size"]
    return [
        (
            torch.randn(size, 3, image, image, generator=generator),
            torch.randint(1, TEXT["vocab_size"], (size, TOKENS), generator=generator),
        )
        for _ in range(count)
    ]


class Loader:
    """Batches in memory as open_clip's loop wants them."""

    def __init__(self, items: list[tuple[Tensor, Tensor]]):
        self.dataloader, self.items = self, items
        self.num_batches, self.num_samples = len(items), sum(len(images) for images, _ in items)

    def set_epoch(self, epoch: int) -> None:
        """Every epoch is the same."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.items)


def compare(
    size: int, width: int, pieces: int, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[float], list[float]]:
    """Return seconds per optimizer step, of open_clip's loop and of soupkit's step, round by round."""
    from open_clip.loss import ClipLoss
    from open_clip_train.train import train_one_epoch

    from soupkit.training.parallel import clip_gradients
    from soupkit.training.step import contrastive_step

    [(images, texts)] = batches(size, 1)
    micro = size // pieces
    loader = Loader(list(zip(images.split(micro), texts.split(micro), strict=True)))
    args = SimpleNamespace(
        device="cpu", precision="fp32", distill=False, accum_freq=pieces, skip_scheduler=True, grad_clip_norm=1.0,
        log_every_n_steps=1, world_size=1, rank=0, local_rank=0, log_local=False, horovod=False, wandb=False,
        batch_size=micro,
    )  # fmt: skip
    models = [small_model(width), small_model(width)]
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-4) for model in models]

    def theirs() -> None:
        train_one_epoch(models[0], {"train": loader}, ClipLoss(), 0, optimizers[0], None, None, None, args)

    def mine() -> None:
        contrastive_step(models[1], images, texts, loss="clip", micro_batch=micro).loss.item()
        clip_gradients(models[1], 1.0).item()
        optimizers[1].step()

    theirs()
    mine()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        # Adam's first step has the size of the learning rate, whatever the gradient: two at most apart.
        assert (a - b).abs().max() <= 2.1e-4, "the two do not train the same model"
    found: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for seconds, work in zip(found, (theirs, mine) if i % 2 == 0 else (mine, theirs), strict=True):
            seconds.append(timed(work, clock))
        if i % 2:
            found[0][-1], found[1][-1] = found[1][-1], found[0][-1]
    return found


def table(arguments: Namespace, title: str, label: str, pieces: int) -> list[str]:
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    lines = [
        title,
        "",
        f"{machine()}; torch {torch.__version__}; {arguments.rounds} rounds; ViT {VISION}, text {TEXT}, "
        f"features of width {arguments.width}; in memory, AdamW, float32; {torch.get_num_threads()} threads, "
        f"by the {arguments.clock} clock",
        "",
        f"| batch | {label}, samples/s | soupkit, samples/s | soupkit / open_clip |",
        "|---|---|---|---|",
    ]
    for size in arguments.batches:
        theirs, mine = compare(size, arguments.width, pieces, arguments.rounds, clock)
        ratios = [a / b for a, b in zip(theirs, mine, strict=True)]
        rates = [spread([size / second for second in seconds]) for seconds in (theirs, mine)]
        lines.append(f"| {size:,} | {rates[0]} | {rates[1]} | {spread(ratios)} |")
        print(lines[-1], file=sys.stderr)
    return lines


def step(arguments: Namespace) -> list[str]:
    """Compare whole steps of one pass."""
    return table(arguments, "## An optimizer step, one pass", "open_clip's loop", 1)


def accumulation(arguments: Namespace) -> list[str]:
    """Compare whole steps over 8 micro-batches."""
    title = f"## An optimizer step over {MICRO_BATCHES} micro-batches"
    return table(arguments, title, f"open_clip's loop, `--accum-freq {MICRO_BATCHES}`", MICRO_BATCHES)


def cuda(arguments: Namespace) -> list[str]:
    """Measure a large model on one GPU: samples per second, and the share of the chip's measured matrix rate."""
    if not torch.cuda.is_available():
        return ["Not run: there is no CUDA device here."]
    import open_clip
    from torch.utils.flop_counter import FlopCounterMode

    from soupkit.ranks import Ranks
    from soupkit.training.parallel import parallelize
    from soupkit.training.step import contrastive_step

    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def product() -> None:
        for _ in range(10):
            torch.mm(a, b)
        torch.cuda.synchronize()

    product()
    rate = 10 * 2 * size**3 / least(product)
    lines = [
        f"## {arguments.model}, batch {arguments.batch}, gradient checkpointing, bfloat16 compute",
        "",
        f"{torch.cuda.get_device_name()}: {rate / 1e12:.0f} TFLOP/s in products of {size} x {size}; {machine()}",
        "",
        "| patches dropped | samples/s | share of the rate, recomputation not counted | peak GB |",
        "|---|---|---|---|",
    ]
    for dropped in (0.0, 0.5):
        model = open_clip.create_model(arguments.model, device="cuda", force_patch_dropout=dropped, output_dict=True)
        side = model.visual.image_size[0]
        images = torch.randn(arguments.batch, 3, side, side)
        texts = torch.randint(1, 49000, (arguments.batch, model.context_length))
        with FlopCounterMode(display=False) as counter, torch.autocast("cuda", torch.bfloat16):
            output = model.train()(images[:2].cuda(), texts[:2].cuda())
            (output["image_features"].sum() + output["text_features"].sum()).backward()
        flops = counter.get_total_flops() / 2
        parallelize(model, Ranks(), checkpointing=True, precision="bf16")

        def one(model: nn.Module = model, images: Tensor = images, texts: Tensor = texts) -> None:
            contrastive_step(model, images, texts, loss="clip", micro_batch=arguments.batch, precision="bf16")
            torch.cuda.synchronize()

        one()
        seconds = [timed(one) for _ in range(arguments.rounds)]
        speeds = [arguments.batch / second for second in seconds]
        shares = [speed * flops / rate for speed in speeds]
        peak = torch.cuda.max_memory_allocated() / 1e9
        lines.append(f"| {dropped:.0%} | {spread(speeds)} | {spread(shares)} | {peak:.1f} |")
        del model, one
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return lines


if __name__ == "__main__":
    main()
