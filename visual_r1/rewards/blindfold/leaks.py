"""Descriptions that are addressed to their reader: they are none, whatever else is in them.

Tags and boxes, an answer that is announced, a word to the reader what to do, a number that is said
to be in code, and text that runs backwards. Each is a matter of what a phrase is followed by: an
answer's box that is empty, a tenth to which an answer is rounded, a base in which a point lies, and
a triangle that is mirrored are what a figure may show.
"""

import re

from visual_r1.rewards.blindfold.levelling import levelled

# A value, as it stands in the masked text: a number, what was masked, or a number in words.
_VALUE = (
    r"(?:[$\\\"'*({\[-]{0,4}\s?(?:\d|\[masked\]|(?:one|two|three|four|five|six|seven|eight|nine|ten"
    r"|eleven|twelve|\w{3,5}teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred)\b))"
)
# What is said of an answer without saying it.
_SAYS_NOTHING = (
    r"(?!\s*(?:is|are|:)?\s*(?:empty|blank|not|no|left|missing|hidden|unknown|given|shown|required"
    r"|wanted|asked|needed|covered|to|in|on|at|below|above|written|printed|choices?|options?|box"
    r"|cut)\b|\s*(?:is|are|=|:)?\s*(?:[?_…]|\.{2}|$))"
)
_LEAKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "a tag or a box",
        re.compile(r"</?\s*(?:answer|think|scan)\b|\\(?:boxed|fbox)\b|<\|", re.IGNORECASE),
    ),
    (
        "an announced answer",
        re.compile(
            r"\banswers?\s*(?:is|are|=|:|≈|would\s+be|should\s+be|must\s+be|will\s+be|equals|comes)"
            + _SAYS_NOTHING
            + r"|\b(?:final|correct|right|my|our|your|the)\s+answer\s*[,:=-]?\s*"
            + _VALUE
            + r"|\b(?:the|final)\s+(?:result|solution)\s*(?:is|=|:)"
            + _SAYS_NOTHING,
            re.IGNORECASE,
        ),
    ),
    (
        "an instruction to the reader",
        re.compile(
            r"\b(?:ignore|disregard|forget)\b.{0,40}\b(?:instruction|question|above|previous|text)"
            r"|\b(?:answer|respond|reply)\s+(?:with|by|using)\b"
            r"|\b(?:output|print|write|say|return|choose|pick|select|answer|reply)\s+"
            r"(?:just\s+|only\s+)?(?:the\s+)?(?:\[masked\]"
            r"|(?:number|value|answer|following|option|choice)\b[^.;\n]{0,20}?" + _VALUE + r")"
            r"|^[ \t]*assistant\s*:"
            r"|^[ \t]*(?:system|user)\s*:[^\n]*\b(?:you|answer|reply|respond|say|output|must"
            r"|instructions?)\b",
            re.IGNORECASE | re.MULTILINE,
        ),
    ),
    (
        "a number in code",
        re.compile(
            r"\b(?:first|second|third|last|final|next|tens|ones|units|hundreds)[\s-]+"
            r"(?:digit|place)s?\s*(?:is|are|:|=|,)?\s*" + _VALUE +
            r"|\bdigits?\s*(?:is|are|:|=)\s*" + _VALUE +
            r"|\b(?:tens|hundreds)\s?[:=]?\s?" + _VALUE + r"\w*[\s,;]+(?:and\s+)?(?:ones|units)\b"
            r"|(?<!\w)(?:\d{2,}|\[masked\])\W{0,3}(?:reversed|backwards?|in\s+reverse|mirrored)\b"
            r"|\breverse\s+of\s+\W?\d"
            r"|(?:\d|\[masked\])\W{0,3}in\s+(?:binary|octal|hex|hexadecimal|roman|ascii|base64"
            r"|base\s*-?(?:\d|two|eight|twelve|sixteen))\b"
            r"|\b(?:binary|octal|hex|hexadecimal|base64|ascii)\s*:?\s*" + _VALUE +
            r"|(?:\d|\[masked\])\)?\s*_\s*\{?(?:2|8|16)\b",
            re.IGNORECASE,
        ),
    ),
)  # fmt: skip
# Looked for in the text as it was written: what levelling takes off.
_WRITTEN = re.compile(
    r"&#x?[0-9a-f]{2,6};|\\u00[0-9a-f]{2}|\\x[0-9a-f]{2}|%3[0-9]|U\+003[0-9]|\bbase64,",
    re.IGNORECASE,
)
_WHITE = re.compile(r"\s+")
_BACKWARDS = re.compile("[\u202d\u202e\u2066-\u2068]")


def leak_in(scan: str, masked: str) -> str:
    """What in a scan is said to its reader, in words for a message; "" where there is nothing.

    `scan` as it was written, and with its masks.
    """
    # A single white space where there are many: the patterns ask for it on both sides of words that
    # may be missing, and would take a long row of it in each way of parting it.
    plain = _WHITE.sub(lambda row: "\n" if "\n" in row[0] else " ", levelled(masked)[0])
    for what, found in _LEAKS:
        if found.search(plain):
            return f"there is {what} in it"
    if _WRITTEN.search(scan):
        return "there is a number in code in it"
    return "there is text in it that runs backwards" if _BACKWARDS.search(scan) else ""
