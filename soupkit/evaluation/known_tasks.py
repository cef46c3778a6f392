"""The tasks that have a name: the literature's 38, CLIP_benchmark's names for them, and the suites made of them.

Names and main metrics follow DataComp (Gadre et al. 2023, arXiv:2304.14108), whose columns open_clip's results table
shows.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Known:
    """A task of the literature: its `alias` in open_clip's results table, CLIP_benchmark's `name`, its main `metric`.

    Metrics in `also` are reported beside it. `table` is the folder in which `datasets` caches the task's table, for
    those that DataComp takes from there.
    """

    alias: str
    name: str
    metric: str = "acc1"
    kind: str = "classification"
    also: tuple[str, ...] = ()
    table: str = ""


KNOWN = (
    Known("ImageNet 1k", "wds/imagenet1k"),
    Known("Caltech-101", "wds/vtab/caltech101", "mean_per_class_recall"),
    Known("CIFAR-10", "wds/vtab/cifar10"),
    Known("CIFAR-100", "wds/vtab/cifar100"),
    Known("CLEVR Counts", "wds/vtab/clevr_count_all"),
    Known("CLEVR Distance", "wds/vtab/clevr_closest_object_distance"),
    Known("Country211", "wds/country211"),
    Known("Describable Textures", "wds/vtab/dtd"),
    Known("EuroSAT", "wds/vtab/eurosat"),
    Known("FGVC Aircraft", "wds/fgvc_aircraft", "mean_per_class_recall"),
    Known("Food-101", "wds/food101"),
    Known("GTSRB", "wds/gtsrb"),
    Known("ImageNet Sketch", "wds/imagenet_sketch"),
    Known("ImageNet v2", "wds/imagenetv2"),
    Known("ImageNet-A", "wds/imagenet-a"),
    Known("ImageNet-O", "wds/imagenet-o"),
    Known("ImageNet-R", "wds/imagenet-r"),
    Known("KITTI Vehicle Distance", "wds/vtab/kitti_closest_vehicle_distance"),
    Known("MNIST", "wds/mnist"),
    Known("ObjectNet", "wds/objectnet"),
    Known("Oxford Flowers-102", "wds/vtab/flowers", "mean_per_class_recall"),
    Known("Oxford-IIIT Pet", "wds/vtab/pets", "mean_per_class_recall"),
    Known("Pascal VOC 2007", "wds/voc2007"),
    Known("PatchCamelyon", "wds/vtab/pcam"),
    Known("Rendered SST2", "wds/renderedsst2"),
    Known("RESISC45", "wds/vtab/resisc45"),
    Known("Stanford Cars", "wds/cars"),
    Known("STL-10", "wds/stl10"),
    Known("SUN397", "wds/sun397"),
    Known("SVHN", "wds/vtab/svhn"),
    Known(
        "Flickr", "wds/flickr30k", "mean_recall@1", "retrieval",
        table="nlphuji___flickr_1k_test_image_text_retrieval",
    ),
    Known(
        "MSCOCO", "wds/mscoco_captions", "mean_recall@1", "retrieval",
        table="nlphuji___mscoco_2014_5k_test_image_text_retrieval",
    ),
    Known("WinoGAViL", "wds/winogavil", "jaccard_score_10_12", "associations", table="nlphuji___winogavil"),
    Known("iWildCam", "wds/wilds/iwildcam", "f1_macro"),
    Known("Camelyon17", "wds/wilds/camelyon17"),
    # The published evaluator means to leave out the region "Other" and does not: it counts, as here. The other reading
    # is reported beside it.
    Known("FMoW", "wds/wilds/fmow", "acc_worst_region", also=("acc_worst_region_without_other",)),
    Known("Dollar Street", "wds/fairness/dollar_street", "acc_top5_wg"),
    Known("GeoDE", "wds/fairness/geode", "acc_wg"),
)  # fmt: skip

SUITES: dict[str, tuple[str, ...]] = {
    # The natural distribution shifts of Wortsman et al. 2022. The folders of A, R and ObjectNet name their own 200 or
    # 113 classes, and a model chooses among these alone, as in the papers that introduced them.
    "imagenet-shift": (
        "wds/imagenet1k",
        "wds/imagenetv2",
        "wds/imagenet-a",
        "wds/imagenet-r",
        "wds/imagenet_sketch",
        "wds/objectnet",
    ),
    "datacomp-38": tuple(k.name for k in KNOWN),
    "openclip-38": tuple(k.name for k in KNOWN),
}
WHAT_IS_THERE = ("openclip-38",)  # suites of which the tasks are scored whose data are there


def find_known(name: str) -> Known | None:
    """Return the task called `name`: CLIP_benchmark's name, with or without `wds/`, or its alias; None if unknown."""
    for known in KNOWN:
        if name.casefold() in (known.alias.casefold(), known.name, known.name.removeprefix("wds/")):
            return known
    return None
