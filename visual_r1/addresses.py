"""Addresses of servers, as they may be shown and stored."""

from urllib.parse import urlsplit, urlunsplit


def without_secrets(url: str) -> str:
    """`url` without user, password, query and fragment; what cannot be parsed is "(unreadable)"."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(unreadable)"
    host = parts.netloc.rpartition("@")[2]
    # Without its slashes an address parses as a path, password and all.
    path = parts.path if host else parts.path.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, path, "", ""))


def may_hold_secrets(url: str) -> bool:
    """Whether `url` has a part that `without_secrets` leaves out."""
    parts = urlsplit(url)
    return "@" in parts.netloc or bool(parts.query or parts.fragment)
