"""References to adapters: a folder or a repository on the Hub that is one, and BASE+ADAPTER, a model with one in it."""

from pathlib import Path

from soupkit.checkpoint.formats.folder import LocalFolder
from soupkit.checkpoint.formats.peft import ADAPTER_CONFIG, PEFT, is_adapter
from soupkit.checkpoint.hub import fetch, from_cache
from soupkit.checkpoint.hub_listing import choose_from, list_repo
from soupkit.checkpoint.hub_ref import HubRef, is_hub
from soupkit.checkpoint.in_memory import held_as
from soupkit.errors import CheckpointError, HubError, HubUnreachableError
from soupkit.progress import SILENT, Progress

JOINS = "+"


def with_base(ref: str) -> tuple[str, str] | None:
    """Return base and adapter of BASE+ADAPTER; None for any other reference, such as a path with a + in it."""
    if JOINS not in ref or held_as(ref) is not None or Path(ref).exists():
        return None
    base, _, adapter = ref.rpartition(JOINS)
    while base:
        if adapter_folder(adapter) is not None:
            return base, adapter
        if is_hub(adapter) and JOINS not in adapter and _names_weights(base):
            _say_why_not(HubRef.parse(adapter))
        base, _, more = base.rpartition(JOINS)
        adapter = more + JOINS + adapter
    return None


def _names_weights(base: str) -> bool:
    return is_hub(base) or Path(base).exists() or with_base(base) is not None


def _say_why_not(adapter: HubRef) -> None:
    """Raise HubError or CheckpointError for what follows BASE+ and is on the Hub, where it is no adapter that can be
    had: BASE+ is there, so that it can be meant for nothing else."""
    family, _ = choose_from(list_repo(adapter))
    if family is not PEFT:
        raise CheckpointError("is no adapter of PEFT's", str(adapter), "BASE+ADAPTER is a model and an adapter for it")
    fetch(adapter, SILENT)


def adapter_folder(ref: str, progress: Progress = SILENT) -> Path | None:
    """Return the folder of the adapter that `ref` names by itself, after a download of one on the Hub; None for
    anything else, and for what the Hub does not give."""
    if not is_hub(ref):
        return Path(ref) if (Path(ref) / ADAPTER_CONFIG).is_file() else None
    if JOINS in ref:
        return None
    hub = HubRef.parse(ref)
    try:
        family, _ = choose_from(list_repo(hub))
        path = fetch(hub, progress) if family is PEFT else None
    except HubUnreachableError as error:
        path = _cached(hub, error)
    except (CheckpointError, HubError):  # said by whoever opens it
        return None
    return path if path is not None and path.is_dir() and is_adapter(LocalFolder.list(path)) else None


def _cached(hub: HubRef, error: HubUnreachableError) -> Path | None:
    """Return where the cache holds what `hub` names, None where it does not."""
    try:
        return from_cache(hub, error)
    except HubUnreachableError:
        return None
