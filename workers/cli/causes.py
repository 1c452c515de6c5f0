"""What to do about a refused request, by its cause: for people."""

ADVICE = {
    "missing_header": (
        "Something on the way takes the header off, or the request is not the provider's. Look"
        " whether a proxy passes it on, and whether the source has the right provider."
    ),
    "malformed_header": (
        "The header is there and is no signature of this scheme. Look at it (requests show), and at"
        " what the provider documents for the version it is set to."
    ),
    "unknown_scheme": (
        "The sender signs in another version than is checked. Set its endpoint to the version that"
        " the source's page names, or change the source's scheme in the file and apply it."
    ),
    "clock_off": (
        "The signature is right. Set the sender's clock (or ours: sluice doctor), or find out what"
        " holds requests back for so long. Have the provider send the event again."
    ),
    "wrong_secret": (
        "The sender has another of our secrets. Give it the source's current one, or rotate with an"
        " overlap: sluice sources rotate-secret."
    ),
    "body_changed": (
        "The secret is right; something between the sender and the gateway writes the body anew."
        " Have it pass bodies on as they are: a proxy, a framework, a function in front."
    ),
    "token_wrong": (
        "The token is none of the source's. Give the sender the current one, or rotate with an"
        " overlap: sluice sources rotate-secret."
    ),
    "signature_mismatch": (
        "Compare the secret at the provider with the one that was applied: copy it again, for the"
        " same endpoint and the same mode, and try it beside the real one: sluice sources shadow."
    ),
}


def advice(cause: str) -> str:
    """What to do; the most general where the cause is of another version."""
    return ADVICE.get(cause, ADVICE["signature_mismatch"])
