"""Personal details and secrets in a text, and placeholders that stand for them until the answer is back. Pure.

Phone numbers are found by Google's libphonenumber (the package phonenumberslite), the check digits of cards and
bank accounts by python-stdnum. Names and addresses of people are not found: no rule does that, and a model that
tries misses some.
"""

import re
from collections.abc import Callable, Iterator

from meshnode.errors import ConfigInvalid

HINT = "Install it: pip install 'meshnode[redact]'."
KINDS = ("SECRET", "EMAIL", "IBAN", "CARD", "PHONE")

_SECRETS = (
    # Their prefixes are published by those who hand them out, so that leaked ones are found.
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    r"\b(?:sk|pk|rk)[-_][A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic, Stripe
    r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_|npm_|pypi-|AIza|ya29\.)[A-Za-z0-9_-]{16,}",
    r"\bxox[a-z]-[A-Za-z0-9-]{10,}",  # Slack
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",  # AWS
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",  # JSON web tokens
    r"(?i:(?<=bearer )[A-Za-z0-9._~+/-]{16,}=*)",
    r"(?<=://)[^\s/:@]{1,64}:[^\s/@]{1,128}(?=@)",  # user and password in a URL
)
_NAMED = re.compile(
    r"(?i)\b(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?key|auth[_-]?token|token)"
    r"[\"']?\s*[:=]\s*[\"']?(?P<value>[^\s\"',;]{6,})"
)
_SECRET = re.compile("|".join(f"(?:{pattern})" for pattern in _SECRETS), re.DOTALL)
_EMAIL = re.compile(r"[\w.%+'-]{1,64}@(?:[\w-]{1,63}\.)+[^\W\d_]{2,24}")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]{1,4}){3,8}\b")
_CARD = re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.]\d)")
_PLACEHOLDER = re.compile(rf"<(?:{'|'.join(KINDS)})_\d{{1,6}}>")
_BEGUN = re.compile(rf"<(?:{'|'.join(KINDS)})_\d{{0,6}}")

Span = tuple[int, int]
Find = Callable[[str], Iterator[Span]]


class Recognisers:
    """What is looked for, in the order in which it counts. Raises ConfigInvalid when the libraries are missing.

    Phone numbers without a country's code are found only for `region`, two letters such as DE.
    """

    def __init__(self, region: str = "") -> None:
        try:
            import phonenumbers
            from stdnum import iban, luhn
        except ImportError as error:
            raise ConfigInvalid(f"Redaction needs {error.name}.", hint=HINT, param="cloud") from error
        if region and region not in phonenumbers.SUPPORTED_REGIONS:
            raise ConfigInvalid(
                f"There is no region {region!r} of phone numbers.", hint="Such as DE or US.", param="cloud"
            )

        def phones(text: str) -> Iterator[Span]:
            for match in phonenumbers.PhoneNumberMatcher(text, region or None):
                yield match.start, match.end

        self.finds: tuple[tuple[str, Find], ...] = (
            ("SECRET", lambda text: (match.span() for match in _SECRET.finditer(text))),
            ("SECRET", lambda text: (match.span("value") for match in _NAMED.finditer(text))),
            ("EMAIL", lambda text: (match.span() for match in _EMAIL.finditer(text))),
            ("IBAN", lambda text: _checked(text, _IBAN, iban.is_valid)),
            ("CARD", lambda text: _checked(text, _CARD, lambda found: luhn.is_valid(_digits(found)))),
            ("PHONE", phones),
        )


class Redaction:
    """The placeholders of one request: the same value has the same everywhere. `texts` is all that is sent."""

    def __init__(self, recognisers: Recognisers, texts: str) -> None:
        self._recognisers = recognisers
        self._taken = set(_PLACEHOLDER.findall(texts))
        self._of_value: dict[str, str] = {}
        self._values: dict[str, str] = {}

    def redact(self, text: str) -> str:
        """The text with placeholders."""
        found: list[tuple[int, int, str]] = []
        for kind, find in self._recognisers.finds:
            found += [(*span, kind) for span in find(text) if not _overlaps(span, found)]
        parts, at = [], 0
        for start, end, kind in sorted(found):
            parts += [text[at:start], self._placeholder(kind, text[start:end])]
            at = end
        return "".join((*parts, text[at:]))

    def restore(self, text: str) -> str:
        """The text with what the placeholders stand for; one that is none of ours stays."""
        return _PLACEHOLDER.sub(lambda match: self._values.get(match[0], match[0]), text)

    def _placeholder(self, kind: str, value: str) -> str:
        if value not in self._of_value:
            number = 1
            while (made := f"<{kind}_{number}>") in self._taken:
                number += 1
            self._taken.add(made)
            self._of_value[value], self._values[made] = made, value
        return self._of_value[value]


class Restorer:
    """Restores a text that comes in parts: what may be the beginning of a placeholder waits for its end."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be told of it, and of what waited."""
        text = self._held + text
        last = text.rfind("<")
        cut = last if last >= 0 and _is_begun(text[last:]) else len(text)
        self._held = text[cut:]
        return self._redaction.restore(text[:cut])

    def finish(self) -> str:
        """What still waits."""
        held, self._held = self._held, ""
        return held


def _is_begun(text: str) -> bool:
    """Whether a text may become a placeholder."""
    return bool(_BEGUN.fullmatch(text)) or any(f"<{kind}_".startswith(text) for kind in KINDS)


def _checked(text: str, pattern: re.Pattern[str], is_valid: Callable[[str], bool]) -> Iterator[Span]:
    return (match.span() for match in pattern.finditer(text) if is_valid(match[0]))


def _digits(text: str) -> str:
    return text.replace(" ", "").replace("-", "")


def _overlaps(span: Span, found: list[tuple[int, int, str]]) -> bool:
    return any(span[0] < end and start < span[1] for start, end, _kind in found)
