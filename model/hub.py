"""Check once whether the Hugging Face Hub can be reached.

`huggingface_hub` retries each file of a model five times within half a minute, so a machine without network access
would wait for minutes.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from functools import cache

SECONDS = 5.0
"""Timeout for the Hub's response."""


@cache
def hub_problem() -> str | None:
    """Return why this process cannot reach the Hub, or None if it can. Uses the proxies of the environment."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")  # noqa: S310 the user's HF_ENDPOINT, or https
        urllib.request.urlopen(request, timeout=SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return None  # it answered
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):  # it answered; huggingface_hub has its own certificates
            return None
        return f"{constants.ENDPOINT} cannot be reached ({reason})"
    return None
