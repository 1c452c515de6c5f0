"""
Push a file of results, or ask what became of it.

    python3 send.py URL ID [FILE TYPE]

The secret is in WEBHOOK_SECRET. Python 3.9 or newer, and nothing else.
"""

import base64
import hmac
import os
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException

AGAIN = {408, 409, 429, 500, 502, 503, 504}
TRIES = 8


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Sign exactly the bytes that are sent: of a compressed file, the compressed ones."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(key, content, "sha256")).decode()


def send(
    url: str, secret: str, message_id: str, body: bytes = b"", media: "dict[str, str] | None" = None
) -> "tuple[int, str]":
    """The answer's status and text. With `media` it is a POST, else a GET."""
    for tries_left in reversed(range(TRIES)):
        timestamp = int(time.time())  # of this attempt; the id stays
        headers = {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secret, message_id, timestamp, body),
            **(media or {}),
        }
        request = urllib.request.Request(url, body if media else None, headers)
        wait_s = 5
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code not in AGAIN or not tries_left:
                return error.code, error.read().decode()
            wait_s = int(error.headers.get("retry-after", wait_s))
        except (OSError, HTTPException):  # no answer: it may have arrived all the same
            if not tries_left:
                raise
        time.sleep(wait_s)
    raise AssertionError("the last try returns or raises")


if __name__ == "__main__":
    url, message_id, *more = sys.argv[1:]
    body, media = b"", {}
    if more:
        path, media["content-type"] = more
        if path.endswith(".gz"):
            media["content-encoding"] = "gzip"
        with open(path, "rb") as file:
            body = file.read()
    status, text = send(url, os.environ["WEBHOOK_SECRET"], message_id, body, media)
    print(text)
    sys.exit(0 if status < 300 else f"refused: {status}")
