"""The papers that the merge methods come from."""

from soupkit.merging.registry import Paper

SOUPS = Paper(
    (
        "Mitchell Wortsman",
        "Gabriel Ilharco",
        "Samir Yitzhak Gadre",
        "Rebecca Roelofs",
        "Raphael Gontijo-Lopes",
        "Ari S. Morcos",
        "Hongseok Namkoong",
        "Ali Farhadi",
        "Yair Carmon",
        "Simon Kornblith",
        "Ludwig Schmidt",
    ),
    "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time",
    2022,
    "https://arxiv.org/abs/2203.05482",
)
WISE_FT = Paper(
    (
        "Mitchell Wortsman",
        "Gabriel Ilharco",
        "Jong Wook Kim",
        "Mike Li",
        "Simon Kornblith",
        "Rebecca Roelofs",
        "Raphael Gontijo-Lopes",
        "Hannaneh Hajishirzi",
        "Ali Farhadi",
        "Hongseok Namkoong",
        "Ludwig Schmidt",
    ),
    "Robust fine-tuning of zero-shot models",
    2021,
    "https://arxiv.org/abs/2109.01903",
)
TASK_ARITHMETIC = Paper(
    (
        "Gabriel Ilharco",
        "Marco Tulio Ribeiro",
        "Mitchell Wortsman",
        "Suchin Gururangan",
        "Ludwig Schmidt",
        "Hannaneh Hajishirzi",
        "Ali Farhadi",
    ),
    "Editing Models with Task Arithmetic",
    2022,
    "https://arxiv.org/abs/2212.04089",
)
SLERP = Paper(
    ("Ken Shoemake",), "Animating rotation with quaternion curves", 1985, "https://doi.org/10.1145/325165.325242"
)
