"""What the Hub refused, or why it cannot be reached, in one line each. Nothing of a request is repeated: a message
may hold a signed address or a header."""

from collections.abc import Iterator
from contextlib import contextmanager

from soupkit.errors import HubError, HubUnreachableError

_LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@contextmanager
def explained(where: object, *, writing: bool = False) -> Iterator[None]:
    """Turn whatever huggingface_hub raises inside into a HubError about `where`; keep its progress bars and its log
    lines to itself. `writing` is said of calls that change the Hub."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    level, bars = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    disable_progress_bars()
    try:
        yield
    except Exception as error:
        explanation = hub_error(error, where, writing=writing)
        if explanation is None:
            raise
        # Without `from error`: its text and the request in it may hold what is not for a log.
        raise explanation from None
    finally:
        logging.set_verbosity(level)
        if bars:
            enable_progress_bars()


def hub_error(error: BaseException | None, where: object, *, writing: bool = False) -> HubError | None:
    """Return what `error`, or what caused it, means; None where it does not come from the Hub."""
    while error is not None:
        if (explanation := _explain(error, where, writing)) is not None:
            return explanation
        error = error.__cause__ or error.__context__
    return None


def _explain(error: BaseException, where: object, writing: bool) -> HubError | None:
    from huggingface_hub import errors, get_token

    has_token = get_token() is not None
    if isinstance(error, errors.GatedRepoError):
        hint = "ask for access on its page, with the account that the token belongs to" if has_token else _LOGIN
        return HubError("is gated: its authors ask for an agreement first", where, hint)
    if isinstance(error, errors.RevisionNotFoundError):
        return HubError("has no such revision", where, "name a branch, a tag or a commit of it")
    if isinstance(error, errors.RepositoryNotFoundError):
        what = "names no such repository" + (
            ", or the token gives no access to it" if has_token else ", or it is private and no token is set"
        )
        return HubError(what, where, "check the name" if has_token else f"check the name, or {_LOGIN}")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return HubError("has no such file", where, "look at its files on its page")
    if isinstance(error, errors.HFValidationError):
        return HubError("is not a name of a repository", where, "write ORG/NAME")
    if isinstance(error, errors.HfHubHTTPError):
        return _by_status(error.response.status_code, where, writing, has_token)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return HubUnreachableError("is not in the cache, and HF_HUB_OFFLINE is set", where, "unset it once to download")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return hub_error(error.__cause__, where, writing=writing) or HubUnreachableError(
            "cannot be reached, and is not in the cache", where, "check the network"
        )
    # httpx, or the fork of it that huggingface_hub uses: known by name, so that neither has to be imported.
    kinds = {f"{k.__module__.split('.')[0]}.{k.__name__}" for k in type(error).__mro__}
    if kinds & {"httpx.TransportError", "httpx2.TransportError"} or isinstance(error, ConnectionError):
        return HubUnreachableError(
            "cannot be reached: the connection to the Hub broke or could not be made",
            where,
            "check the network, then run this again",
        )
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return HubError("arrived with fewer bytes than the Hub has announced", where, "run this again")
    return None


def _by_status(status: int, where: object, writing: bool, has_token: bool) -> HubError:
    cannot = "cannot be written" if writing else "cannot be read"
    if status == 401:
        why = "the Hub does not accept the token" if has_token else "the Hub asks for a token"
        return HubError(f"{cannot}: {why}", where, _LOGIN)
    if status == 403:
        why = "the token may not write here" if writing else "the token gives no access"
        hint = "use a token with the right to write, of an account that may" if writing else _LOGIN
        return HubError(f"{cannot}: {why}", where, hint)
    if status in (409, 412):
        return HubError(f"{cannot}: somebody else changed it in between", where, "look at it, then run this again")
    if status == 413:
        return HubError("is too large for the Hub", where, "send less: fewer figures, or weights in shards")
    if status == 429:
        return HubError(
            f"{cannot}: the Hub takes no more requests for now", where, "wait a few minutes, then run this again"
        )
    if status >= 500:
        return HubUnreachableError(
            f"{cannot}: the Hub fails with an error of its own ({status})", where, "try again later"
        )
    return HubError(f"{cannot}: the Hub refuses the request ({status})", where, "look at its page on the Hub")
