"""What can go wrong, said so that a person can act on it: its subject, what is wrong with it, and what to do."""

from soupkit.text import visible


class SoupkitError(Exception):
    """An error that soupkit expects and explains.

    `where` is the subject of the sentence (a file, a tensor, an option, a reference) and `what` its predicate, as in
    "runs/a: holds no weights"; `hint` is what to do about it (may be empty). The command line shows them as
    `error: WHERE: WHAT` and `hint: WHAT TO DO`, `str` without the first word, and exits with `exit_code`: 1, the work
    failed; 2, the call was wrong.

    >>> try:
    ...     soupkit.merge(["runs/a", "runs/nowhere"], "soups/none")
    ... except soupkit.SoupkitError as error:
    ...     print(error.where, error.what, error.exit_code, sep="; ")
    runs/nowhere; does not exist; 1
    """

    exit_code = 1

    def __init__(self, what: str, where: object = "", hint: str = "") -> None:
        self.what = what
        self.where = str(where)
        self.hint = hint
        super().__init__(what, self.where, hint)

    @property
    def sentence(self) -> str:
        """The subject and what is wrong with it, without the hint: one line, whatever names of strangers it holds."""
        return visible(f"{self.where}: {self.what}" if self.where else self.what)

    def __str__(self) -> str:
        hint = visible(self.hint, keep="\n")
        return f"{self.sentence}\nhint: {hint}" if hint else self.sentence

    def __reduce__(self) -> tuple[type["SoupkitError"], tuple[str, str, str]]:
        # Exceptions cross process borders when several ranks work on one output.
        return type(self), (self.what, self.where, self.hint)


class UsageError(SoupkitError):
    """The call was wrong: an option, a combination of options, or a recipe.

    >>> UsageError("is no number", "--points x", "give 2 or more").exit_code
    2
    """

    exit_code = 2


class CheckpointError(SoupkitError):
    """A checkpoint cannot be read, or does not hold what it claims.

    >>> print(CheckpointError("ends early", "runs/a/open_clip_model.safetensors", "copy it again"))
    runs/a/open_clip_model.safetensors: ends early
    hint: copy it again
    """


class ArchitectureError(SoupkitError):
    """Checkpoints do not fit together, or do not fit the model they are said to be.

    >>> ArchitectureError("has a tensor of another shape", "runs/b").sentence
    'runs/b: has a tensor of another shape'
    """


class DataError(SoupkitError):
    """A dataset is missing, damaged, or not in a layout that soupkit reads.

    >>> isinstance(DataError("holds no images", "data/pets"), SoupkitError)
    True
    """


class HubError(SoupkitError):
    """The Hugging Face Hub refused something or could not be reached.

    >>> HubError("says that you may not write there", "me/soup", "hf auth login").hint
    'hf auth login'
    """


class HubUnreachableError(HubError):
    """The Hub does not answer, or is not to be asked (HF_HUB_OFFLINE): what the cache holds may serve instead.

    >>> isinstance(HubUnreachableError("does not answer", "the Hub"), HubError)
    True
    """


class StorageError(SoupkitError):
    """Something cannot be written: no room, no permission, or another output in the way.

    >>> StorageError("holds something else", "soups/best", "choose another -o, or add --fresh").exit_code
    1
    """
