"""Whether the Hugging Face Hub can be reached, asked once.

`huggingface_hub` tries each file of a model five times over half a minute; a machine without a network would wait for
minutes before it hears that it has none.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.error
import urllib.request
from functools import cache

SECONDS = 5.0
"""For the hub's answer."""


@cache
def hub_problem() -> str | None:
    """Return why this process cannot reach the hub, None if it can; proxies are those of the environment."""
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
        if isinstance(reason, ssl.SSLError):  # it answered; huggingface_hub has certificates of its own
            return None
        return f"{constants.ENDPOINT} cannot be reached ({reason})"
    return None
