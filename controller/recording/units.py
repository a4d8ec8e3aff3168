"""Numbers as people read them: SI prefixes, three digits, durations in words."""

from __future__ import annotations

from math import floor, isfinite, log10

TIMES = "\N{MULTIPLICATION SIGN}"
_MINUS = "\N{MINUS SIGN}"
_PREFIXES = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}

_PREFIXED = frozenset({"m", "s", "W", "J", "J/m²", "Hz"})

#: The unit that a name's suffix stands for, longest suffix first.
_SUFFIXES = (
    ("_j_per_m2", "J/m²"),
    ("_fraction", "%"),
    ("_photons", "photons"),
    ("_bits", "bit"),
    ("_hz", "Hz"),
    ("_m", "m"),
    ("_s", "s"),
    ("_w", "W"),
    ("_j", "J"),
)

#: Abbreviations that a name is allowed to hold, as they are written in a sentence.
_ABBREVIATIONS = {"snr": "SNR", "sted": "STED", "fwhm": "FWHM", "psf": "PSF", "ucb": "UCB", "fov": "FOV"}


def number(value: float, digits: int = 3) -> str:
    """Return a number with ``digits`` significant digits, thousands apart, exponents only when needed."""
    if not isfinite(value):
        return {"inf": "∞", "-inf": f"{_MINUS}∞"}.get(str(value), "not a number")
    if value == 0:
        return "0"
    magnitude = floor(log10(abs(value)))
    if not -4 <= magnitude <= 9:
        mantissa = value / 10.0**magnitude
        return _minus(f"{mantissa:.{digits - 1}f}·10^{magnitude}")
    rounded = round(value, digits - 1 - magnitude)
    text = f"{rounded:,.{max(0, digits - 1 - magnitude)}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return _minus(text.replace(",", "\N{NARROW NO-BREAK SPACE}"))


def scale(unit: str, largest: float) -> tuple[float, str]:
    """Return the factor and the prefixed unit in which ``largest`` is best read."""
    if unit == "%":
        return 100.0, "%"
    if unit not in _PREFIXED or not isfinite(largest) or largest == 0:
        return 1.0, unit
    # What rounds to 1000 nm in three digits is one micrometre to a reader.
    power = floor(log10(abs(largest) * (1 + 5e-4)) / 3)
    power = min(max(power, min(_PREFIXES)), max(_PREFIXES))
    if unit == "s" and power > 0:
        power = 0
    return 1000.0**-power, _PREFIXES[power] + unit


def quantity(value: float, unit: str) -> str:
    """Return a value with its unit, for example ``30 mW`` or ``12.5 µm``."""
    if not isfinite(value):
        return number(value)
    factor, prefixed = scale(unit, value)
    if not unit:
        return number(value)
    return f"{number(value * factor)}\N{NO-BREAK SPACE}{prefixed}"


def duration(seconds: float) -> str:
    """Return a time in words, for example ``2 min 30 s``."""
    if not isfinite(seconds) or seconds < 60:
        return quantity(seconds, "s")
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}\N{NO-BREAK SPACE}h {minutes}\N{NO-BREAK SPACE}min"
    return f"{minutes}\N{NO-BREAK SPACE}min {left}\N{NO-BREAK SPACE}s"


def percent(fraction: float) -> str:
    """Return a fraction as a percentage; what is little but not nothing does not read as 0."""
    if 0 < fraction < 0.001:
        return "< 0.1\N{NO-BREAK SPACE}%"
    return f"{number(100 * fraction, 2 if abs(fraction) < 0.1 else 3)}\N{NO-BREAK SPACE}%"


def plural(count: int, word: str) -> str:
    """Return ``1 frame``, ``2 frames``."""
    shown = f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{shown}\N{NO-BREAK SPACE}{word}{'' if count == 1 else 's'}"


def name_and_unit(name: str) -> tuple[str, str]:
    """Return a figure's name as words and the unit that its suffix stands for."""
    unit = ""
    for suffix, meaning in _SUFFIXES:
        if name.endswith(suffix) and len(name) > len(suffix):
            unit = meaning
            name = name if meaning == "%" else name.removesuffix(suffix)
            break
    words = [_ABBREVIATIONS.get(word, word) for word in name.split("_") if word]
    text = " ".join(words) or name
    return text[:1].upper() + text[1:], unit


def figure(name: str, value: float) -> str:
    """Return one figure of a decision's evidence as words, for example ``detail SNR 4.2``."""
    words, unit = name_and_unit(name)
    shown = percent(value) if unit == "%" else quantity(value, unit)
    return f"{words}\N{NO-BREAK SPACE}{shown}"


def _minus(text: str) -> str:
    return text.replace("-", _MINUS)
