"""How many images and prompts a task has: of data that are there, and, as published, of the literature's tasks.

Images and classes are those of DataComp's list of tasks (Gadre et al. 2023, arXiv:2304.14108), templates those that
CLIP_benchmark ships for them; for retrieval the test splits of Karpathy and Fei-Fei 2015 with five captions an image.
"""

from dataclasses import dataclass
from pathlib import Path

from soupkit.errors import DataError, UsageError
from soupkit.evaluation.kinds import KINDS
from soupkit.evaluation.known_tasks import SUITES, find_known
from soupkit.evaluation.tasks import open_tasks, split_name

# Images, classes (captions, cues) and templates; None where nobody says.
_PUBLISHED: dict[str, tuple[int | None, int | None, int | None]] = {
    "wds/imagenet1k": (50_000, 1000, 80),
    "wds/vtab/caltech101": (6_085, 102, 34),
    "wds/vtab/cifar10": (10_000, 10, 18),
    "wds/vtab/cifar100": (10_000, 100, 18),
    "wds/vtab/clevr_count_all": (15_000, 8, 1),
    "wds/vtab/clevr_closest_object_distance": (15_000, 6, 1),
    "wds/country211": (21_100, 211, 5),
    "wds/vtab/dtd": (1_880, 47, 8),
    "wds/vtab/eurosat": (5_400, 10, 3),
    "wds/fgvc_aircraft": (3_333, 100, 2),
    "wds/food101": (25_250, 101, 1),
    "wds/gtsrb": (12_630, 43, 3),
    "wds/imagenet_sketch": (50_889, 1000, 80),
    "wds/imagenetv2": (10_000, 1000, 80),
    "wds/imagenet-a": (7_500, 200, 80),
    "wds/imagenet-o": (2_000, 200, 80),
    "wds/imagenet-r": (30_000, 200, 80),
    "wds/vtab/kitti_closest_vehicle_distance": (711, 4, 1),
    "wds/mnist": (10_000, 10, 1),
    "wds/objectnet": (18_574, 113, 80),
    "wds/vtab/flowers": (6_149, 102, 1),
    "wds/vtab/pets": (3_669, 37, 1),
    "wds/voc2007": (14_976, 20, 1),
    "wds/vtab/pcam": (32_768, 2, 2),
    "wds/renderedsst2": (1_821, 2, 1),
    "wds/vtab/resisc45": (6_300, 45, 4),
    "wds/cars": (8_041, 196, 8),
    "wds/stl10": (8_000, 10, 2),
    "wds/sun397": (108_754, 397, 2),
    "wds/vtab/svhn": (26_032, 10, 6),
    "wds/flickr30k": (1_000, 5_000, 1),
    "wds/mscoco_captions": (5_000, 25_000, 1),
    "wds/wilds/camelyon17": (85_054, 2, 1),
    "wds/wilds/iwildcam": (42_791, 182, None),
    "wds/wilds/fmow": (22_108, 62, None),
    "wds/fairness/dollar_street": (3_503, 58, None),
    "wds/fairness/geode": (12_488, 40, None),
    "wds/winogavil": (None, 3_563, 1),
}


@dataclass(frozen=True, slots=True)
class TaskSize:
    """A task's images and prompts (captions, for retrieval); None where neither the data nor the literature says."""

    name: str
    split: str
    images: int | None
    prompts: int | None


def task_sizes(text: str, *, data_root: Path | None = None, split: str = "test") -> list[TaskSize]:
    """Return the size of every task that `text` names; a suite is several. `split` counts where none is named."""
    name, named = split_name(text)
    return [_size(member, named or split, bool(named), data_root) for member in SUITES.get(name, (name,))]


def _size(name: str, split: str, named: bool, data_root: Path | None) -> TaskSize:
    known = find_known(name)
    try:
        (task,) = open_tasks([f"{name}:{split}" if named else name], data_root=data_root, split=split)
    except (DataError, UsageError):  # what is not there yet may come to be there
        images, classes, templates = _PUBLISHED.get(known.name if known else name, (None, None, None))
        if split != "test":
            return TaskSize(name, split, None, None)
        return TaskSize(name, split, images, classes * templates if classes and templates else None)
    return TaskSize(name, split, len(task.dataset), KINDS[task.kind].text_count(task))
