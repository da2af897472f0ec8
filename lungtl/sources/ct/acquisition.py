"""How a series was acquired, as far as its header states it: reconstruction kernel and contrast agent.

Both fields are free text, which might contain a name: a kernel is kept if it has the form of a manufacturer's code, and
of a contrast agent only whether there was one.
"""

from __future__ import annotations

import re

from lungtl.sources.ct.elements import Elements

KERNELS = re.compile(
    r"STANDARD|LUNG|BONE|BONEPLUS|CHEST|DETAIL|EDGE|SOFT|ULTRA|SMOOTH|SHARP"  # GE, and in words
    r"|[BDHIJQSTU][LRVFCN]?\d{2}[A-Z]?"  # Siemens: B30f, I70f, Br40d, Hr60
    r"|FC\d{2}"  # Toshiba and Canon
    r"|[A-F]|L|Y[A-E]|E[BC]|U[BC]|IP|SB|SC"  # Philips
)
OTHER = "other"
NO_AGENT = re.compile(r"0|n|no|none|nil|nul|without|w/o|native|unenhanced|(no|non|without)[ -_]?(contrast|iv).*", re.I)


def kernel(elements: Elements) -> str:
    """The ConvolutionKernel in capitals, its first value without strength; '' if missing, OTHER if it is no code."""
    text = elements.lenient("ConvolutionKernel").split("\\")[0].strip().upper()
    return text if not text or KERNELS.fullmatch(text) else OTHER


def contrast(elements: Elements) -> str:
    """'yes' if ContrastBolusAgent names an agent, 'no' if it states that there was none; '' if it is missing."""
    text = elements.lenient("ContrastBolusAgent").strip()
    if not text:
        return ""
    return "no" if NO_AGENT.fullmatch(text) else "yes"
