"""Names, passwords and tokens: read from files and from the environment, never from the command line, which every user can list."""

import hmac
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from xraygpt.common.errors import DataError
from xraygpt.serving.page_sessions import Login

logger = logging.getLogger(__name__)

AUTH_VARIABLE = "XRAYGPT_AUTH"
"""Holds USER:PASSWORD where no file does."""

PAGE_USER = "xraygpt"
"""The user name that goes with a token."""

MIN_TOKEN_LENGTH = 16

MIN_PASSWORD_LENGTH = 12
"""Right passwords are never delayed, so guessing must be hopeless by their length; see `FailedLogins`."""

_ADVICE = "Make one with: python -c 'import secrets; print(secrets.token_urlsafe())'"


def read_tokens(path: Path) -> list[str]:
    """The tokens of a file, one a line.

    Raises:
        DataError: it cannot be read, has no token, or a short one.
    """
    tokens = _read_secrets(path, "--api-token-file").split()
    if not tokens or min(map(len, tokens)) < MIN_TOKEN_LENGTH:
        raise DataError(f"--api-token-file: {path} must have one token a line, each of at least {MIN_TOKEN_LENGTH} characters. {_ADVICE}")
    return tokens


def read_passwords(path: Path | None) -> dict[str, str]:
    """User names and passwords: the lines USER:PASSWORD of a file, or without one of the variable `AUTH_VARIABLE`.

    Returns:
        Passwords by user name; none, if there is neither file nor variable.

    Raises:
        DataError: the file cannot be read, or a line is no USER:PASSWORD. No message quotes a line.
    """
    where = f"--auth {path}" if path else AUTH_VARIABLE
    # taken out of the environment, so that no other program that this one starts gets it
    text = _read_secrets(path, "--auth") if path else os.environ.pop(AUTH_VARIABLE, None)
    if text is None:
        return {}
    passwords = {}
    for number, line in enumerate(filter(None, map(str.strip, text.splitlines())), start=1):
        user, colon, password = line.partition(":")
        if not (user and colon and password):
            raise DataError(f"{where}: line {number} must be USER:PASSWORD.")
        if len(password) < MIN_PASSWORD_LENGTH:
            raise DataError(f"{where}: the password in line {number} has fewer than {MIN_PASSWORD_LENGTH} characters. {_ADVICE}")
        passwords[user] = password
    if not passwords:
        raise DataError(f"{where}: there is no USER:PASSWORD in it.")
    return passwords


def _read_secrets(path: Path, option: str) -> str:
    try:
        text = path.read_text(encoding="utf-8")
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{option}: {path} cannot be read ({getattr(error, 'strerror', None) or 'it is no UTF-8 text'}).") from error
    if mode & 0o077:
        logger.warning("%s: other users of this machine can read %s. Close it to them: chmod 600 %s", option, path, path)
    return text


def password_login(passwords: Mapping[str, str]) -> Login:
    """A check of names and passwords, which takes as long for a near miss as for a far one."""

    def check(user: str, password: str) -> str | None:
        known = _equal(password, passwords.get(user, ""))
        return user if known and user in passwords else None

    return check


def token_login(tokens: Sequence[str]) -> Login:
    """A check of `PAGE_USER` with one of the tokens as the password; each token is a login of its own."""

    def check(user: str, password: str) -> str | None:
        known = [number for number, token in enumerate(tokens, start=1) if _equal(password, token)]
        return f"token {known[0]}" if known and user == PAGE_USER else None

    return check


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())  # bytes, because it refuses other text than ASCII
