"""The papers that the merge methods come from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method is published, by which a card cites it. `authors` have their full names, in order."""

    authors: tuple[str, ...]
    title: str
    year: int
    url: str

    @property
    def citation(self) -> str:
        """The work in a few words, such as "Wortsman et al. 2022"."""
        last = [author.split()[-1] for author in self.authors]
        names = f"{last[0]} et al." if len(last) > 2 else " and ".join(last)
        return f"{names} {self.year}"

    @property
    def bibtex(self) -> str:
        """The work as an entry of a BibTeX file."""
        key = self.authors[0].split()[-1].lower() + str(self.year) + self.title.split()[0].strip(":,").lower()
        lines = {"title": f"{{{self.title}}}", "author": " and ".join(self.authors), "year": self.year, "url": self.url}
        fields = "".join(f"  {name} = {{{value}}},\n" for name, value in lines.items())
        return f"@misc{{{key},\n{fields}}}\n"


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
NUSLERP = MULTISLERP = ARCEE_FUSION = Paper(
    (
        "Charles Goddard",
        "Shamane Siriwardhana",
        "Malikeh Ehghaghi",
        "Luke Meyers",
        "Vladimir Karpukhin",
        "Brian Benedict",
        "Mark McQuade",
        "Jacob Solawetz",
    ),
    "Arcee's MergeKit: A Toolkit for Merging Large Language Models",
    2024,
    "https://arxiv.org/abs/2403.13257",
)
KARCHER = Paper(
    ("Hermann Karcher",),
    "Riemannian center of mass and mollifier smoothing",
    1977,
    "https://doi.org/10.1002/cpa.3160300502",
)
MODEL_STOCK = Paper(
    ("Dong-Hwan Jang", "Sangdoo Yun", "Dongyoon Han"),
    "Model Stock: All we need is just a few fine-tuned models",
    2024,
    "https://arxiv.org/abs/2403.19522",
)
MAGMAX = Paper(
    ("Daniel Marczak", "Bartłomiej Twardowski", "Tomasz Trzciński", "Sebastian Cygert"),
    "MagMax: Leveraging Model Merging for Seamless Continual Learning",
    2024,
    "https://arxiv.org/abs/2407.06322",
)
CONSENSUS = Paper(
    ("Ke Wang", "Nikolaos Dimitriadis", "Guillermo Ortiz-Jimenez", "François Fleuret", "Pascal Frossard"),
    "Localizing Task Information for Improved Model Merging and Compression",
    2024,
    "https://arxiv.org/abs/2405.07813",
)
RAM = Paper(
    (
        "Xiangchi Yuan",
        "Dachuan Shi",
        "Chunhui Zhang",
        "Zheyuan Liu",
        "Shenglong Yao",
        "Soroush Vosoughi",
        "Wenke Lee",
    ),
    "Behavior Knowledge Merge in Reinforced Agentic Models",
    2026,
    "https://arxiv.org/abs/2601.13572",
)
NEARSWAP = Paper(
    ("Alchemonaut",),
    "QuartetAnemoi-70B-t0.0001",
    2024,
    "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
)
TIES = Paper(
    ("Prateek Yadav", "Derek Tam", "Leshem Choshen", "Colin Raffel", "Mohit Bansal"),
    "TIES-Merging: Resolving Interference When Merging Models",
    2023,
    "https://arxiv.org/abs/2306.01708",
)
BREADCRUMBS = Paper(
    ("MohammadReza Davari", "Eugene Belilovsky"),
    "Model Breadcrumbs: Scaling Multi-Task Model Merging with Sparse Masks",
    2023,
    "https://arxiv.org/abs/2312.06795",
)
SCE = Paper(
    ("Fanqi Wan", "Longguang Zhong", "Ziyi Yang", "Ruijun Chen", "Xiaojun Quan"),
    "FuseChat: Knowledge Fusion of Chat Models",
    2024,
    "https://arxiv.org/abs/2408.07990",
)
DARE = Paper(
    ("Le Yu", "Bowen Yu", "Haiyang Yu", "Fei Huang", "Yongbin Li"),
    "Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free Lunch",
    2023,
    "https://arxiv.org/abs/2311.03099",
)
DELLA = Paper(
    ("Pala Tej Deep", "Rishabh Bhardwaj", "Soujanya Poria"),
    "DELLA-Merging: Reducing Interference in Model Merging through Magnitude-Based Sampling",
    2024,
    "https://arxiv.org/abs/2406.11617",
)
TSV = Paper(
    (
        "Antonio Andrea Gargiulo",
        "Donato Crisostomi",
        "Maria Sofia Bucarelli",
        "Simone Scardapane",
        "Fabrizio Silvestri",
        "Emanuele Rodolà",
    ),
    "Task Singular Vectors: Reducing Task Interference in Model Merging",
    2024,
    "https://arxiv.org/abs/2412.00081",
)
ISO = Paper(
    (
        "Daniel Marczak",
        "Simone Magistri",
        "Sebastian Cygert",
        "Bartłomiej Twardowski",
        "Andrew D. Bagdanov",
        "Joost van de Weijer",
    ),
    "No Task Left Behind: Isotropic Model Merging with Common and Task-Specific Subspaces",
    2025,
    "https://arxiv.org/abs/2502.04959",
)
WUDI = Paper(
    ("Runxi Cheng", "Feng Xiong", "Yongxian Wei", "Wanyun Zhu", "Chun Yuan"),
    "Whoever Started the Interference Should End It: Guiding Data-Free Model Merging via Task Vectors",
    2025,
    "https://arxiv.org/abs/2503.08099",
)
MONOSOUP = Paper(
    ("Alireza Abdollahpoorrostam", "Nikolaos Dimitriadis", "Adam Hazimeh", "Pascal Frossard"),
    "Model soups need only one ingredient",
    2026,
    "https://arxiv.org/abs/2602.09689",
)
FISHER = Paper(
    ("Michael Matena", "Colin Raffel"),
    "Merging models with Fisher-weighted averaging",
    2021,
    "https://arxiv.org/abs/2111.09832",
)
REGMEAN = Paper(
    ("Xisen Jin", "Xiang Ren", "Daniel Preotiuc-Pietro", "Pengxiang Cheng"),
    "Dataless knowledge fusion by merging weights of language models",
    2022,
    "https://arxiv.org/abs/2212.09849",
)
REGMEAN_PLUSPLUS = Paper(
    ("The-Hai Nguyen", "Dang Huu-Tien", "Takeshi Suzuki", "Le-Minh Nguyen"),
    "RegMean++: Enhancing effectiveness and generalization of regression mean for model merging",
    2025,
    "https://arxiv.org/abs/2508.03121",
)
