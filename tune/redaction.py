"""Redaction of passwords and tokens in whatever reaches a file, a log or a tag."""

import re

_USER_INFO = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*):)?//(?!/)(?P<user>[^:/@\s]*)(?P<rest>\S*)@", re.IGNORECASE
)
"""User and password of a URL, up to the last @ of the word: either may hold an unescaped @, : or /.
"""

_SECRET = (
    "password|passwd|passphrase|pwd|token|secret|signature|credentials?|"
    "api[-_]?key|access[-_]?key|secret[-_]?key"
)
_PARAMETER = re.compile(rf"((?:{_SECRET}|\bsig)=)[^&\s;]+", re.IGNORECASE)
"""A secret parameter of a URL or a connection: its name ends in one of these words, as
`sslpassword` does."""

_DATABASES = re.compile(
    r"(postgresql|postgres|mysql|mariadb|mssql|oracle|cockroachdb)(\+\w+)?", re.IGNORECASE
)
"""Schemes of URLs in which the user is a name that may be shown. Elsewhere it may be a token:
`https://TOKEN@host`."""


def without_password(text: str) -> str:
    """`text`, a URL or a message that may hold one, with *** in place of secrets.

    In a database's URL the password is hidden and the user stays. In any other URL both are hidden,
    since either can be a token.
    """
    return re.sub(r"\S+", lambda word: _without_secrets(word[0]), text)


def _without_secrets(word: str) -> str:
    """A word, which may be a URL, with *** in place of its secrets."""
    user_info, parameter = _USER_INFO.search(word), _PARAMETER.search(word)
    if user_info and parameter and parameter.start() < user_info.end():
        # An @ is in the parameter's value, or a = in the password: nobody can tell where the secret
        # ends.
        return f"{word[: min(user_info.start('user'), parameter.end(1))]}***"
    return _PARAMETER.sub(r"\1***", _USER_INFO.sub(_without_user_info, word))


def _without_user_info(match: re.Match[str]) -> str:
    scheme, user, rest = match["scheme"], match["user"], match["rest"]
    before = f"{scheme}://" if scheme else "//"
    if scheme is not None and not _DATABASES.fullmatch(scheme):
        return f"{before}***@"
    return f"{before}{user}:***@" if ":" in rest else match[0]
