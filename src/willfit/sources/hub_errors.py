"""Why a Hub repository could not be read, as one sentence for each reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from willfit.errors import InputError, ModelAccessError, ModelNotFoundError, WillfitError
from willfit.sources.missing import not_found

_Result = TypeVar("_Result")

_NO_ROUTE: Final = frozenset({"NewConnectionError", "ConnectionRefusedError", "gaierror"})
"""Nobody answered at all; urllib3 derives the first of them from its timeout."""


def asking(repo: str, call: Callable[[], _Result]) -> _Result:
    """The result of a call into huggingface_hub, its failures as our sentences.

    The client raises its own errors, its HTTP library's and OSErrors, and which of them differs
    between its releases: so everything is caught here, and nothing else happens in ``call``.
    """
    try:
        return call()
    except WillfitError:
        raise
    except Exception as error:  # whatever the client and its HTTP library raise
        raise explain(repo, error) from error


def explain(repo: str, error: BaseException) -> InputError:
    """The sentence for what the client raised while it read ``repo``."""
    from huggingface_hub import constants

    chain = list(_chain(error))
    kinds = {base.__name__ for link in chain for base in type(link).__mro__}
    status = next((s for s in map(_status, chain) if s is not None), None)
    if "OfflineModeIsEnabled" in kinds:
        return offline(repo)
    if "GatedRepoError" in kinds or _error_code(chain) == "GatedRepo":
        return ModelAccessError(
            f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo}, then log in with "
            "'hf auth login' or set HF_TOKEN"
        )
    if "DisabledRepoError" in kinds:
        return ModelAccessError(f"{repo} has been disabled on the Hub: name another copy of it")
    if "RevisionNotFoundError" in kinds:
        return ModelAccessError(f"{repo} has no such revision: name one of its branches or tags")
    if _bad_token(chain, status):
        return ModelAccessError(
            f"the Hub refused the access token while reading {repo}: log in again with "
            "'hf auth login', or correct or unset HF_TOKEN"
        )
    if "EntryNotFoundError" in kinds and status == 404:
        return ModelNotFoundError(f"there is no file {repo}: check its name on the Hub")
    if "RepositoryNotFoundError" in kinds:
        return not_found(
            repo,
            f"the Hub has no model {repo!r}, or it is private and needs 'hf auth login'",
        )
    if status is not None:
        return _by_status(repo, status)
    return _by_kind(repo, kinds, chain)


def _near(repo: str) -> str:
    """The catalogue's names that look most like this one, as a hint."""
    from willfit.sources.catalogue import nearest

    return f"such as {' or '.join(nearest(repo, 2))}"


def offline(repo: str) -> InputError:
    """The sentence for a model that only the network could tell of."""
    if "/" not in repo:
        return not_found(repo, f"no model known offline is called {repo!r}")
    return ModelAccessError(
        f"{repo} is neither in the catalogue nor in the cache, and offline mode is on: "
        f"unset HF_HUB_OFFLINE, or name a local folder or one of 'willfit models', {_near(repo)}"
    )


def _by_status(repo: str, status: int) -> InputError:
    if status == 429:
        return ModelAccessError(
            f"the Hub asks to slow down (429) while reading {repo}: wait a minute, or log in "
            "with 'hf auth login' for a higher limit"
        )
    if status in (401, 403):
        return ModelAccessError(
            f"the Hub forbids reading {repo} ({status}): ask its owner for access, and log in "
            "with 'hf auth login'"
        )
    if status >= 500:
        return ModelAccessError(
            f"the Hub is broken at the moment (error {status}) while reading {repo}: try again "
            "later, or name a local folder"
        )
    return ModelAccessError(f"the Hub answered {status} while reading {repo}: check the name")


def _by_kind(repo: str, kinds: set[str], chain: list[BaseException]) -> InputError:
    if any("Timeout" in kind for kind in kinds) and not kinds & _NO_ROUTE:
        return ModelAccessError(
            f"the Hub did not answer in time while reading {repo}: try again, or allow longer "
            "with HF_HUB_ETAG_TIMEOUT=60 HF_HUB_DOWNLOAD_TIMEOUT=60"
        )
    if kinds & {"SSLError", "SSLCertVerificationError", "ProxyError"}:
        return ModelAccessError(
            f"no secure connection to the Hub while reading {repo}: check proxy and certificates"
        )
    if kinds & (_NO_ROUTE | {"ConnectError", "ConnectionError", "NetworkError", "MaxRetryError"}):
        if "/" not in repo:
            return not_found(
                repo, f"the catalogue has no {repo!r}, and the Hub cannot be reached to ask it"
            )
        return ModelAccessError(
            f"{repo} is not in the catalogue, and the Hub cannot be reached: check the network, "
            f"or name a local folder or one of 'willfit models', {_near(repo)}"
        )
    if kinds & {"JSONDecodeError", "FileMetadataError", "RemoteProtocolError", "DecodingError"}:
        return ModelAccessError(
            f"what answers for the Hub while reading {repo} does not speak its protocol: check "
            "HF_ENDPOINT, a proxy, or a login page of the network"
        )
    first = chain[0]
    return ModelAccessError(
        f"cannot read {repo} from the Hub ({type(first).__name__}: "
        f"{' '.join(str(first).split())[:160]}): try again, or name a local folder"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _response(error: BaseException) -> Any:
    return getattr(error, "response", None)


def _status(error: BaseException) -> int | None:
    status = getattr(_response(error), "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None


def _error_code(chain: list[BaseException]) -> str | None:
    for link in chain:
        headers = getattr(_response(link), "headers", None)
        if headers is not None and headers.get("X-Error-Code"):
            return str(headers["X-Error-Code"])
    return None


def _bad_token(chain: list[BaseException], status: int | None) -> bool:
    text = " ".join(str(link) for link in chain).lower()
    return status == 401 and ("invalid credentials" in text or "invalid user token" in text)
