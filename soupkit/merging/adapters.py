"""Adapters merged among themselves, into one adapter that PEFT opens: the weighted sum of their updates scale * B A.

Factors side by side, sum_i w_i s_i B_i A_i = [w_1 s_1 B_1 ...] [A_1; ...], are that sum exactly, at the sum of the
ranks. To a lower rank the product is cut by its singular values, which is the nearest of that rank (Eckart and Young
1936); with the QR factors of both sides only a matrix of the size of the ranks is decomposed. Averages of the A and of
the B apart are neither.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from soupkit.checkpoint.adapter_ref import adapter_folder
from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.compatibility import agree
from soupkit.checkpoint.dtypes import BY_TORCH_NAME, DTYPES
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.checkpoint.formats.peft import ADAPTER_CONFIG, PEFT, Adapter, read_adapter
from soupkit.checkpoint.partial import PartialDirectory
from soupkit.checkpoint.reference import open_adapter
from soupkit.checkpoint.side_files import SideFile, side_files_of
from soupkit.checkpoint.writer import TensorWriter, lay_out
from soupkit.errors import ArchitectureError, CheckpointError, StorageError, UsageError
from soupkit.files import storage_error
from soupkit.merging.adapter_modules import MergedModule, config_of, merged_modules, product, read
from soupkit.merging.duplicates import with_distinct_references
from soupkit.merging.entry import SoupEntry, check_recordable
from soupkit.merging.execution import foreign_file
from soupkit.merging.journal import read_journals
from soupkit.merging.methods.averages import normalized
from soupkit.merging.output_hashes import sha256_of_files
from soupkit.merging.preparation import Prepared
from soupkit.merging.registry import METHODS
from soupkit.merging.soup_directory import ApproximationRecord, IngredientRecord, SoupDocument
from soupkit.progress import Progress

if TYPE_CHECKING:
    from soupkit.checkpoint.fingerprint import Fingerprint


def are_adapters(refs: Sequence[str]) -> bool:
    """Whether all of `refs` name adapters alone, without a base."""
    return bool(refs) and all(adapter_folder(ref) is not None for ref in refs)


def prepare_adapters(soup: SoupEntry, output: Path, opened: ExitStack, progress: Progress) -> "PreparedAdapters":
    """Open and check the adapters that a soup is to be made of. Raises UsageError for what cannot be asked of them,
    ArchitectureError for adapters that do not fit together, CheckpointError for those that cannot be read."""
    check_recordable(soup)
    soup, said = with_distinct_references(soup)
    shares = _shares(soup)
    folders = [adapter_folder(ref, progress) for ref in soup.ingredients]
    adapters = [read_adapter(folder) for folder in folders if folder is not None]
    opens = [opened.enter_context(c) for ref in soup.ingredients if (c := open_adapter(ref)) is not None]
    _check_fit(adapters, opens)
    modules = merged_modules(adapters, opens, shares, soup.rank)
    dtype = _dtype(soup, adapters)
    specs: dict[str, tuple[str, tuple[int, ...]]] = {}
    for module in modules:
        specs |= {name: (dtype, shape) for name, shape in zip(module.names(), module.shapes(), strict=True)}
        if any(factors.bias is not None for _, factors, _ in module.parts):
            specs[f"{module.own_name}.lora_B.bias"] = (dtype, (module.first.outputs,))
    first = adapters[0]
    specs |= {first.own_names[name]: (dtype, spec.shape) for name, spec in first.replaced.items()}
    if first.replaced and abs(sum(shares) - 1) > 1e-6:
        raise UsageError(
            f"sum to {sum(shares):g}, and {next(iter(first.replaced))!r} is a weight of its own, to be averaged",
            "--weight",
            "give weights that are divided by their sum",
        )
    agreement = agree(opens[:1])
    side_files, notes = side_files_of(opens, agreement)
    config = config_of(adapters, modules)
    prepared = Prepared(
        soup=soup,
        output=output,
        method=METHODS.find("linear"),
        sources=tuple(opens),
        agreement=agreement,
        tensors=(),
        layout=lay_out(specs, {"format": "pt"}, None, PEFT.output),
        side_files=(SideFile(ADAPTER_CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n"), *side_files),
        tokenizer_files=(),
        document=SoupDocument(
            method="concatenation" if soup.rank is None else "svd",
            parameters={"weight": list(shares)} | ({} if soup.rank is None else {"rank": soup.rank}),
            dtype=DTYPES[dtype].torch_name,
            model=first.base,
            model_from=ADAPTER_CONFIG,
            ingredients=tuple(IngredientRecord(ref, weight=w) for ref, w in zip(soup.ingredients, shares, strict=True)),
        ),
        notes=(*said, *notes),
    )
    return PreparedAdapters(prepared, tuple(adapters), tuple(modules), tuple(shares))


@dataclass(frozen=True, slots=True)
class PreparedAdapters:
    """A merge of adapters that is ready to run; `shares` are what their updates are multiplied by."""

    prepared: Prepared
    adapters: tuple[Adapter, ...]
    modules: tuple[MergedModule, ...]
    shares: tuple[float, ...]

    def run(
        self, *, fresh: bool, sha256: bool, progress: Progress
    ) -> "tuple[list[Fingerprint], ApproximationRecord | None]":
        """Write the soup. Returns the fingerprints of the ingredients and of the output, and how far it is from the sum
        where it was cut to a rank. Raises CheckpointError for factors that are not finite, StorageError."""
        prepared = self.prepared
        with PartialDirectory(prepared.target, "merge") as partial:
            if odd := foreign_file(partial.path, prepared):
                raise StorageError(f"holds a file that is not soupkit's: {odd}", partial.path, "move it away")
            if not fresh:
                read_journals(partial.path, "")
            partial.clear()
            writer = TensorWriter(partial.path, prepared.layout)
            try:
                writer.open(create=True)
                approximation = self._write(writer, progress)
                writer.finish()
            except (CheckpointError, StorageError):
                partial.discard()
                raise
            finally:
                writer.close()
            try:
                for file in prepared.side_files:
                    file.write(partial.path)
                prints = [fingerprint(source) for source in prepared.sources]
                with open_adapter(partial.path) or self._unreadable(partial.path) as written:
                    prints.append(fingerprint(written))
                document = replace(prepared.document, approximation=approximation)
                hashes: list[str | None] = [None] * len(prepared.sources)
                output = None
                if sha256:
                    hashes, output = sha256_of_files(prepared, partial.path, 1, progress)
                document.completed(prints, hashes, output).write(partial.path)
            except OSError as error:
                raise storage_error(error, partial.path, 0) from error
            partial.publish(replace=fresh)
        return prints, approximation

    @staticmethod
    def _unreadable(path: Path) -> Checkpoint:
        raise StorageError("disappeared while it was written", path, "run the same command again")

    def _write(self, writer: TensorWriter, progress: Progress) -> ApproximationRecord | None:
        lost = whole = 0.0
        progress.start(f"merging {len(self.adapters)} adapters", len(self.modules), "modules")
        for module in self.modules:
            a, b, tail, total = product(module, cut=self.prepared.soup.rank is not None)
            lost, whole = lost + tail, whole + total
            for name, value in zip(module.names(), (a, b), strict=True):
                self._put(writer, name, value)
            self._put_bias(writer, module)
            progress.advance(1)
        for name in self.adapters[0].replaced:
            values = [
                share * read(source, adapter.replaced[name], name)
                for share, adapter, source in zip(self.shares, self.adapters, self.prepared.sources, strict=True)
            ]
            self._put(writer, self.adapters[0].own_names[name], sum(values[1:], values[0]))
        progress.finish()
        rank = self.prepared.soup.rank
        return None if rank is None else ApproximationRecord(rank, sqrt(lost / whole) if whole else 0.0)

    def _put_bias(self, writer: TensorWriter, module: MergedModule) -> None:
        """Write the bias that B brings, where any adapter's does."""
        biases = [
            number / factors.times * read(source, factors.bias, module.own_name)
            for number, factors, source in module.parts
            if factors.bias is not None
        ]
        if biases:
            self._put(writer, f"{module.own_name}.lora_B.bias", sum(biases[1:], biases[0]))

    def _put(self, writer: TensorWriter, name: str, value: Tensor) -> None:
        dtype = getattr(torch, self.prepared.document.dtype)
        stored = value.to(dtype).contiguous()
        if not bool(torch.isfinite(stored).all()):
            raise CheckpointError(
                f"is not finite in {self.prepared.document.dtype}", f"tensor {name!r}", "choose a wider --dtype"
            )
        writer.write(name, 0, stored.reshape(-1).view(torch.uint8).numpy())


def _shares(soup: SoupEntry) -> tuple[float, ...]:
    """Return what each adapter's update is multiplied by. Raises UsageError for what only whole weights have."""
    n = len(soup.ingredients)
    hint = "with --base BASE the soup is one of models with the adapters in them"
    if n < 2:
        raise UsageError(f"needs at least 2 adapters and got {n}", "a soup of adapters", "name more of them")
    if soup.method_name not in ("uniform", "linear"):
        raise UsageError("merges whole weights, and these are adapters", f"method {soup.method_name}", hint)
    named = {"--to": soup.to, "--model": soup.model, "--preprocess": soup.preprocess}
    if given := next((option for option, value in named.items() if value is not None), None):
        raise UsageError("has no use with adapters alone", given, hint)
    parameters = dict(soup.parameters)
    weights = soup.weights if soup.weights is not None else parameters.pop("weight", None)
    normalize = parameters.pop("normalize", True)
    if parameters or (soup.weights is not None and "weight" in soup.parameters):
        raise UsageError(f"has no use with adapters: {', '.join(parameters) or 'weight'}", "--param", hint)
    if weights is None:
        return (1 / n,) * n
    if not isinstance(weights, Sequence) or len(weights) != n:
        raise UsageError(f"gives {weights} for {n} adapters", "--weight", "give one number for each, in their order")
    numbers = [float(w) for w in weights]
    if not normalize:
        return tuple(numbers)
    if abs(sum(numbers)) <= 1e-12 * sum(abs(w) for w in numbers):
        raise UsageError("sum to zero", "--weight", "give weights that can be divided by their sum")
    return tuple(normalized(numbers))


def _check_fit(adapters: Sequence[Adapter], opens: Sequence[Checkpoint]) -> None:
    first = adapters[0]
    for adapter, source in zip(adapters, opens, strict=True):
        if adapter.has_magnitudes:
            raise ArchitectureError(
                "is a DoRA, whose update is no sum: the lengths of rows belong to the base", source.ref,
                "with --base BASE the soup is one of models with the adapters in them",
            )  # fmt: skip
        if adapter.base != first.base:
            raise ArchitectureError(
                f"is an adapter of {adapter.base}, and {opens[0].ref} of {first.base}", source.ref,
                f"adapters are merged for one base; where the two are one, say so in {ADAPTER_CONFIG}",
            )  # fmt: skip
        other = set(adapter.replaced) ^ set(first.replaced)
        shapes = {
            n for n in adapter.replaced if n not in other and adapter.replaced[n].shape != first.replaced[n].shape
        }
        if other or shapes:
            raise ArchitectureError(
                f"has other weights of its own than {opens[0].ref}: {min(other | shapes)!r}", source.ref,
                "adapters that save whole modules are merged with those that save the same",
            )  # fmt: skip


def _dtype(soup: SoupEntry, adapters: Sequence[Adapter]) -> str:
    """Return the soup's dtype: float32, which holds factors of 16 bits exactly, unless it is asked for or wider."""
    if soup.dtype is not None:
        if soup.dtype not in BY_TORCH_NAME or not BY_TORCH_NAME[soup.dtype].is_float:
            floats = ", ".join(d.torch_name for d in DTYPES.values() if d.is_float)
            raise UsageError(f"{soup.dtype!r} cannot be written", "--dtype", f"choose one of {floats}")
        return BY_TORCH_NAME[soup.dtype].name
    held = {spec.dtype for adapter in adapters for f in adapter.factors.values() for spec in (f.a, f.b)}
    return "F64" if "F64" in held else "F32"
