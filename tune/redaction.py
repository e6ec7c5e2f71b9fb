"""Passwords reach no file, log or tag."""

import re

_USER_INFO = re.compile(r"//([^:/@\s]*):[^\s]*@")
_PARAMETER = re.compile(r"((?:password|passwd|pwd|token|secret)=)[^&\s;]+", re.IGNORECASE)


def without_password(text: str) -> str:
    """`text`, a URL or a message that may hold one, with *** in place of passwords.

    Where a password holds an unescaped @ or / it goes as well: all up to the last @ of the word is replaced.
    """
    return _PARAMETER.sub(r"\1***", _USER_INFO.sub(r"//\1:***@", text))
