"""The rule for prompts, shared by server, commands, pipeline and comparisons."""

from __future__ import annotations

from hybridstitch.base.schema import Schema, mismatch
from hybridstitch.errors import Problem

LONGEST = 2000
"""Most characters of a text."""
_UNPRINTABLE = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ud800-\udfff"
# White space and default ignorable code points of Unicode. Characters above U+FFFF are not escaped, as their escapes
# differ between Python and JSON Schema.
_INVISIBLE = (
    r"\u0009-\u000d\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u2800\u3000"
    r"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)


def text_schema(required: bool = True) -> Schema:
    """The JSON Schema of a text; a required one has a visible character."""
    allowed = f"[^{_UNPRINTABLE}]*"
    visible = f"[^{_UNPRINTABLE}{_INVISIBLE}]{allowed}" if required else ""
    words = "at least one of them visible, " if required else ""
    return {
        "type": "string",
        "minLength": int(required),
        "maxLength": LONGEST,
        "pattern": f"^{allowed}{visible}$",
        "$comment": f"{words}without control characters and unpaired surrogates",
    }


def text_problem(field: str, value: object, required: bool = True) -> Problem | None:
    """What is wrong with a text for a model; None if it is valid.

    Args:
        field: name of the argument or field in the message.
        value: the text.
        required: False for a text that may be empty, such as a negative prompt.
    """
    rule = mismatch(text_schema(required), value)
    return Problem(field, rule, value) if rule else None
