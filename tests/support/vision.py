"""How far apart two colours are, also for people who lack a kind of receptor."""

from __future__ import annotations

from willfit.report.palette import linear

Triple = tuple[float, float, float]
Matrix = tuple[Triple, Triple, Triple]

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear sRGB
VISIONS: dict[str, Matrix] = {
    "all receptors": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "without red receptors": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "without green receptors": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "without blue receptors": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
# Ottosson 2020, "A perceptual color space for image processing": linear sRGB to LMS, LMS to Lab
_TO_LMS: Matrix = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_TO_LAB: Matrix = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def distance(one: str, other: str, vision: Matrix) -> float:
    """Euclidean distance in OKLab: 0.02 is about the least that is seen, black to white is 1."""
    pairs = zip(_oklab(one, vision), _oklab(other, vision), strict=True)
    return float(sum((a - b) ** 2 for a, b in pairs) ** 0.5)


def _oklab(color: str, vision: Matrix) -> Triple:
    seen = [min(max(channel, 0.0), 1.0) for channel in _times(vision, linear(color))]
    lms = _times(_TO_LMS, (seen[0], seen[1], seen[2]))
    return _times(_TO_LAB, (lms[0] ** (1 / 3), lms[1] ** (1 / 3), lms[2] ** (1 / 3)))


def _times(matrix: Matrix, vector: Triple) -> Triple:
    a, b, c = (sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix)
    return a, b, c
