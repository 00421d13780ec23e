"""A client's failure as one sentence that says who must act."""

from fetch.hubs import Hub
from protocol import TemperError

TRANSIENT = (408, 425, 429)


def explain(error: Exception, hub: Hub) -> TemperError | None:
    """What a client's exception means; None when it is not about the hub or the way there (such as a full disk)."""
    status = _status(error)
    if status in (401, 403):
        return TemperError("HostError", _refused(hub, status))
    if status == 404:
        return TemperError("ConfigError", _not_found(error, hub))
    if status is not None and (status in TRANSIENT or status >= 500):
        return _broken_off(hub, f"it answered with HTTP {status}")
    if status is not None:
        return TemperError("HostError", f"{hub.endpoint} answered with HTTP {status}: {_first_line(error)}")
    if type(error).__name__ == "OfflineModeIsEnabled":
        return TemperError("HostError", "HF_HUB_OFFLINE is set in the worker's environment: unset it to fetch the base")
    return _broken_off(hub, _first_line(error)) if _is_network_trouble(error) else None


def _status(error: Exception) -> int | None:
    """The HTTP status of a client's exception, if a server has answered."""
    status = getattr(error, "status_code", None)
    response = getattr(error, "response", None)
    return status if status is not None else getattr(response, "status_code", None)


def _is_network_trouble(error: Exception) -> bool:
    import httpx
    import requests
    from modelscope_hub.errors import HubError, NetworkError, RequestTimeoutError

    if isinstance(error, HubError):
        return error.retryable or isinstance(error, (NetworkError, RequestTimeoutError))
    return isinstance(error, (httpx.TransportError, requests.RequestException, ConnectionError, TimeoutError))


def _broken_off(hub: Hub, reason: str) -> TemperError:
    return TemperError(
        "DownloadError",
        f"{hub.endpoint} could not be reached, or broke off, while {hub.name} was fetched: {reason}. What has come is "
        f"kept, and the fetch goes on from there. For a mirror set {hub.endpoint_variable} for the worker",
    )


def _refused(hub: Hub, status: int) -> str:
    page = f"{hub.endpoint}/{'' if hub.scheme == 'hf' else 'models/'}{hub.name}"
    if hub.has_token():
        remedy = (
            f"the token in {hub.token_variable} does not open it: accept the model's licence on {page} as its owner"
        )
    else:
        remedy = f"accept its licence on {page} and set {hub.token_variable} in the worker's environment"
    return (
        f"{hub.endpoint} refuses {hub.name} (HTTP {status}): "
        f"it is gated or private, or model.source is misspelt; {remedy}"
    )


def _not_found(error: Exception, hub: Hub) -> str:
    if type(error).__name__ == "RevisionNotFoundError":
        return f"{hub.name} has no revision {hub.revision} on {hub.endpoint}; correct model.revision"
    return (
        f"{hub.endpoint} has no model {hub.name} at revision {hub.revision}; correct model.source or model.revision. "
        f"A private model looks the same without {hub.token_variable} in the worker's environment"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
