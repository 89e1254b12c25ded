"""``docs/accuracy.md``: every figure of the ledger, made of its outcomes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.ledger.importers import about
from benchmarks.ledger.judging import Judged
from benchmarks.ledger.page.picture import scatter
from benchmarks.ledger.page.tables import gigabytes, percent, table
from benchmarks.ledger.peers import ALL, PeerFigure
from benchmarks.ledger.ranges import COUNTERS, LEVELS, WORKS, LeftOut, leave_one_out, parts
from benchmarks.ledger.row import About, Known, Outcome
from benchmarks.ledger.summary import Summary, best_of, by_source, noise, overall, summarise
from willfit.report.drawing import svg

PICTURE: Final = "images/accuracy.svg"
COMMAND: Final = "python -m benchmarks.ledger --level both"
OFF: Final = 0.10
"""What is off by more is explained."""
WORST: Final = 10
_NONE: Final = About(title="")


def write_page(
    judged: Judged, peers: Sequence[PeerFigure], page: Path, sample: int | None = None
) -> None:
    """The page, and its picture beside it."""
    text = render_page(judged, peers, sample)
    picture = page.parent / PICTURE
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(svg(scatter(best_of(judged.outcomes))), encoding="utf-8")
    page.write_text(text, encoding="utf-8")


def render_page(judged: Judged, peers: Sequence[PeerFigure], sample: int | None = None) -> str:
    """Markdown; ``sample`` rows of a source were traced at most."""
    outcomes = judged.outcomes
    lines = [
        "# Accuracy",
        "",
        "Every published measurement of GPU memory that was found, beside what willfit says of",
        "the same run. The measurements are other people's; all of this page is made by",
        f"`{COMMAND}`. [Findings behind the figures](findings.md) tells what was off and why.",
        "",
        *_sampled(sample),
        *_about_figures(),
        *_headline(outcomes),
        f"![Estimated against measured memory]({PICTURE})",
        "",
        *_sources(outcomes),
        *_verdicts(judged.known),
        *_peers(peers),
        *_ranges(outcomes),
        *_each(outcomes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _sampled(sample: int | None) -> list[str]:
    if sample is None:
        return []
    return [
        f"A trace takes from seconds to a minute, so {sample} rows of each source at most were",
        "traced, chosen by a digest of their ids; without `--sample` the command traces all.",
        "",
    ]


def _about_figures() -> list[str]:
    return [
        "An error is (estimate − measurement) / measurement. A setting that the source does not",
        "record is not guessed: the estimate is made at both ends of what it can be, and the",
        "error is the distance to what lies between; *alone* is the error of the likeliest",
        "value by itself. The median and the 95th percentile are of the errors' sizes, the bias",
        "is the median with its sign. Tier A are torch's own counters of known shapes, tier B",
        "has another stack, a device's counter or one unknown, tier C is coarse. *Noise* is how",
        "far repeats of one experiment lie apart in the source itself.",
        "",
    ]


def _headline(outcomes: Sequence[Outcome]) -> list[str]:
    traced = [o for o in outcomes if o.level == "trace"]
    formulas = [o for o in outcomes if o.level == "formula"]
    best = best_of(outcomes)
    groups = (
        (
            "tier A, transformers 4.50 and later, by trace",
            [o for o in traced if o.tier == "A" and o.generation == "today"],
        ),
        (
            "tier A, older or unrecorded releases, by trace",
            [o for o in traced if o.tier == "A" and o.generation in ("older", "unrecorded")],
        ),
        ("tier A, by formula", [o for o in formulas if o.tier == "A"]),
        ("tier B, by trace where it has the code, else by formula", _tier(best, "B")),
        ("tier C, the same", _tier(best, "C")),
    )
    rows = []
    for name, members in groups:
        found = overall(by_source(members))
        rows.append(
            (
                name,
                str(found.num_sources),
                f"{found.num_rows:,}",
                percent(found.part_expressed),
                percent(found.median),
                percent(found.p95),
            )
        )
    head = ("sources weigh the same", "sources", "measurements", "expressed", "median", "p95")
    return ["## In short", "", *table(head, rows)]


def _tier(outcomes: Sequence[Outcome], tier: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.tier == tier]


def _sources(outcomes: Sequence[Outcome]) -> list[str]:
    rows = []
    for source, members in _grouped(outcomes):
        tiers = "".join(sorted({o.tier for o in members}))
        formula = summarise(source, "", [o for o in members if o.level == "formula"])
        trace = summarise(source, "", [o for o in members if o.level == "trace"])
        rows.append(
            (
                f"[{source}](#{source})",
                tiers,
                *_figures(formula),
                *_figures(trace),
                percent(noise(members)),
            )
        )
    head = (
        "source", "tier", "by formula", "median", "p95", "worst", "bias",
        "by trace", "median", "p95", "worst", "bias", "noise",
    )  # fmt: skip
    return ["## By source", "", *table(head, rows, left=2)]


def _figures(summary: Summary) -> tuple[str, ...]:
    return (
        f"{summary.num_expressed:,} of {summary.num_rows:,}",
        percent(summary.median),
        percent(summary.p95),
        percent(summary.worst, signed=True),
        percent(summary.bias, signed=True),
    )


def _grouped(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, list[Outcome]]]:
    ordered = sorted(outcomes, key=lambda outcome: outcome.source)
    for source, members in groupby(ordered, key=lambda outcome: outcome.source):
        yield source, list(members)


def _verdicts(known: Sequence[Known]) -> list[str]:
    lines = [
        "## Fits or does not fit",
        "",
        "Runs with a known end on a card of known size. *Wrong “fits”* ran out of memory where",
        "willfit, with all of its printed range, says that it fits; *wrong “does not fit”* ran",
        "where even the low end is too much. Where unknown settings give several verdicts it",
        "counts as tight.",
        "",
    ]
    rows = []
    for level in LEVELS:
        judged = [k for k in known if k.level == level and k.verdicts]
        ran, out = [k for k in judged if not k.ran_out], [k for k in judged if k.ran_out]
        rows.append(
            (
                f"by {level}",
                f"{len(ran):,}",
                str(sum(_said(k) == "fits" for k in ran)),
                str(sum(_said(k) == "tight" for k in ran)),
                str(sum(k.is_wrong_does_not_fit for k in ran)),
                str(len(out)),
                str(sum(_said(k) == "does_not_fit" for k in out)),
                str(sum(_said(k) == "tight" for k in out)),
                str(sum(k.is_wrong_fits for k in out)),
            )
        )
    head = (
        "", "ran", "fits", "tight", "wrong “does not fit”",
        "ran out", "does not fit", "tight", "wrong “fits”",
    )  # fmt: skip
    lines += table(head, rows)
    for wrong, title in ((_wrong_fits, "Wrong “fits”"), (_wrong_not, "Wrong “does not fit”")):
        names = wrong(known)
        lines.append(f"{title}: {', '.join(names) if names else 'none'}.")
        lines.append("")
    return lines


def _said(known: Known) -> str:
    """One word for a run whose unknown settings may have several verdicts."""
    found = set(known.verdicts)
    return next(iter(found)) if len(found) == 1 else "tight"


def _wrong_fits(known: Sequence[Known]) -> list[str]:
    return [f"`{k.id}` ({k.level}, {k.gpu})" for k in known if k.is_wrong_fits]


def _wrong_not(known: Sequence[Known]) -> list[str]:
    return [f"`{k.id}` ({k.level}, {k.gpu})" for k in known if k.is_wrong_does_not_fit]


def _peers(figures: Sequence[PeerFigure]) -> list[str]:
    if not figures:
        return []
    lines = [
        "## Other tools on the same rows",
        "",
        "Each tool is called as its own documentation says; its figure is held to the counter",
        "that it claims to predict, on the rows that it can express, and willfit to the same",
        "rows.",
        "",
    ]
    rows = [
        (
            figure.peer,
            "all" if figure.source == ALL else figure.source,
            f"{figure.rows:,}",
            f"{figure.expressed:,}",
            percent(figure.median),
            percent(figure.p95),
            percent(figure.worst, signed=True),
            percent(figure.bias, signed=True),
            percent(figure.willfit_formula_median),
            percent(figure.willfit_trace_median),
        )
        for figure in sorted(figures, key=lambda f: (f.source != ALL, f.source, f.peer))
        if figure.expressed
    ]
    head = (
        "tool", "source", "rows", "expressed", "median", "p95", "worst", "bias",
        "willfit by formula", "willfit by trace",
    )  # fmt: skip
    return [*lines, *table(head, rows, left=2)]


def _ranges(outcomes: Sequence[Outcome]) -> list[str]:
    found = parts(outcomes)
    held = leave_one_out(outcomes)
    lines = [
        "## The printed range",
        "",
        "`range` adds to every estimate what measurements of allocated memory of the same kind",
        "of work were off by, beyond unknown settings: 99 % of them on each side, sources of",
        "five rows and more weighing the same (tiers A and B, transformers' code, peaks); see",
        "[decision 14](decisions/0014-the-range-is-measured.md). What a formula's reserved",
        "memory is off by is shown, not printed. Rows of torch 1, and counters of runs whose",
        "source did not empty the pool of what ran before, are left out, near or far. Each",
        "source is held to the ranges that the others give.",
        "",
    ]
    rows = [
        (
            f"{work}, {counter}",
            *(
                text
                for level in LEVELS
                for text in (
                    percent(-found[level, counter, work].below, signed=True),
                    percent(found[level, counter, work].above, signed=True),
                )
            ),
        )
        for counter in COUNTERS
        for work in WORKS
    ]
    head = ("work, counter", "formula: below", "above", "trace: below", "above")
    lines += table(head, rows)
    lines += _left_out(held)
    return lines


def _left_out(held: Sequence[LeftOut]) -> list[str]:
    rows = [
        (
            one.source,
            f"{one.level}, {one.counter}",
            f"{one.num_rows:,}",
            percent(one.num_inside / one.num_rows),
            percent(one.half_width),
        )
        for one in held
    ]
    said = [_covered(level, [o for o in held if o.level == level]) for level in LEVELS]
    head = ("source left out", "level, counter", "measured", "inside", "half-width, median")
    return [*said, "", *table(head, rows, left=2)]


def _covered(level: str, held: Sequence[LeftOut]) -> str:
    """In words, how many measurements of the printed counter are inside."""
    printed = [one for one in held if one.is_printed]
    total = sum(one.num_rows for one in printed)
    if not total:
        return f"By {level} nothing is judged."
    inside = sum(one.num_inside for one in printed) / total
    widths = [width for one in printed for width in one.half_widths]
    counter = "allocated memory" if level == "formula" else "allocated and reserved memory"
    return (
        f"By {level}, of {total:,} measurements of {counter} {percent(inside)} are inside; the "
        f"median half-width is {percent(median(widths))}."
    )


def _each(outcomes: Sequence[Outcome]) -> Iterator[str]:
    yield from ("## Source by source", "")
    for source, members in _grouped(outcomes):
        yield from _source(source, members)


def _source(source: str, members: Sequence[Outcome]) -> Iterator[str]:
    try:
        said = about(source)
    except KeyError:
        said = _NONE
    yield from (f"### {source}", "")
    if said.title:
        yield from (f"{said.title}.", "")
    for note in said.notes:
        yield f"- {note}"
    for unknown, treated in said.unknowns.items():
        yield f"- Not recorded: **{unknown}**. {treated}"
    for number, miss in enumerate(said.misses):
        if any(o.why == miss.why for o in members):
            yield f"- Off, {number + 1}: {miss.why}"
    if said.notes or said.unknowns or said.misses:
        yield ""
    yield from _kinds(source, members)
    yield from _worst(members, said)
    yield from _not_expressed(members)


def _kinds(source: str, members: Sequence[Outcome]) -> list[str]:
    rows = []
    for kind in sorted({o.kind for o in members}):
        of_kind = [o for o in members if o.kind == kind]
        formula = summarise(source, kind, [o for o in of_kind if o.level == "formula"])
        trace = summarise(source, kind, [o for o in of_kind if o.level == "trace"])
        rows.append((kind, *_short(formula), *_short(trace)))
    head = (
        "counter", "formula", "median", "p95", "alone",
        "trace", "median", "p95", "alone",
    )  # fmt: skip
    return table(head, rows)


def _short(summary: Summary) -> tuple[str, ...]:
    return (
        f"{summary.num_expressed:,} of {summary.num_rows:,}",
        percent(summary.median),
        percent(summary.p95),
        percent(summary.alone),
    )


def _worst(members: Sequence[Outcome], said: About) -> list[str]:
    ranked = sorted(
        (o for o in best_of(members) if o.error), key=lambda o: abs(o.error or 0), reverse=True
    )
    rows = [
        (
            f"`{o.id}`",
            o.kind,
            o.level,
            gigabytes(o.estimated_bytes),
            gigabytes(o.measured_bytes),
            percent(o.error, signed=True),
            _reason(o, said),
        )
        for o in ranked[:WORST]
    ]
    if not rows:
        return []
    head = ("worst", "counter", "level", "GiB", "measured", "off", "why")
    return table(head, rows, left=3)


def _reason(outcome: Outcome, said: About) -> str:
    if outcome.why is None:
        return "not explained" if abs(outcome.error or 0) > OFF else ""
    whys = [miss.why for miss in said.misses]
    return f"{whys.index(outcome.why) + 1} above" if outcome.why in whys else outcome.why


def _not_expressed(members: Sequence[Outcome]) -> list[str]:
    counts = Counter((o.reason, o.level) for o in members if o.reason is not None)
    if not counts:
        return []
    reasons = sorted({reason for reason, _ in counts if reason})
    lines = ["Not expressed:", ""]
    for reason in reasons:
        by_level = ", ".join(
            f"{counts[reason, level]:,} by {level}" for level in LEVELS if counts[reason, level]
        )
        lines.append(f"- {by_level}: {reason}")
    return [*lines, ""]
