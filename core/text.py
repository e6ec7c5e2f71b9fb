"""Words of messages: counts that agree with their noun, lists, and text that others wrote, safe to show."""

from collections.abc import Sequence


def many(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun, which agrees: `1 image`, `2,480 images`, `0 batches`.

    noun     in the singular; words before it may stand in it as well (`annotated image`)
    plural   where it is not the regular one
    """
    return f"{count:,} {noun if count == 1 else plural or _plural(noun)}"


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "z", "sh", "tch")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in tuple("aeiou"):
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def have(count: int) -> str:
    """The verb after such a count: `1 has`, `2 have`."""
    return "has" if count == 1 else "have"


def listed(parts: Sequence[str]) -> str:
    """In a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def shown(text: str) -> str:
    r"""Text of any origin as one line that a terminal only displays: what is not printable stands there as an escape.

    Names of files, classes and variants, and reasons of errors, may hold escape sequences that move the cursor or
    retitle the window, characters that turn the direction of writing, line breaks, and halves of characters that no
    encoding takes: `\x1b[2J`, `\u202e`, `\n`, `\udcff`. Text that is printable stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
