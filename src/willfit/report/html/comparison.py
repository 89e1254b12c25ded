"""A comparison as a page of its own: sides, their peaks, what moved and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from willfit.comparing.fairness import letter
from willfit.comparing.result import Compared, Comparison, Difference, Step
from willfit.comparing.words import signed
from willfit.report.comparison import comparison_json
from willfit.report.html.markup import Html, component, element, folded, listing, section, table
from willfit.report.html.page import figure, page, verdict
from willfit.report.html.parts import breakdowns, said_of
from willfit.report.palette import look
from willfit.report.peak import Side, peak_drawing, sides_of
from willfit.units import format_bytes


def comparison_html(comparison: Comparison, *, command: str = "") -> str:
    """The whole report; ``command`` is what made it."""
    title = f"{len(comparison.entries)} sides compared"
    return page(
        title,
        *(_answer(index, entry) for index, entry in enumerate(comparison.entries)),
        section("What fills the GPU at each peak", _picture(comparison, title)),
        section("Measured", _measured(comparison)),
        section("What decides the memory", _facts(comparison), _same(comparison)),
        *(_difference(difference, comparison) for difference in comparison.differences),
        section("To be kept in mind", listing(comparison.remarks)),
        section("Each side on its own", *_sides(comparison)),
        section("Assumed of all", listing(comparison.same_assumptions)),
        data=comparison_json(comparison),
        command=command,
    )


def _answer(index: int, entry: Compared) -> Html:
    name = f"{letter(index)}, {entry.label}"
    if entry.estimate is None:
        return element("p", f"{name}: {entry.reason or 'no estimate'}")
    return verdict(f"{name}: {said_of(entry.estimate)}", entry.verdict)


def _picture(comparison: Comparison, title: str) -> Html:
    sides: list[Side] = []
    for index, entry in enumerate(comparison.entries):
        if entry.estimate is not None and entry.estimate.refused is None:
            sides += sides_of(entry.estimate, f"{letter(index)}: {entry.label}")
    if not sides:
        return Html("")
    return figure(lambda width: peak_drawing(sides, title, width=width, titled=False))


def _measured(comparison: Comparison) -> Html:
    """What each side took for real beside its estimates, and what went wrong."""
    sides = list(enumerate(comparison.entries))
    rows = [row for index, entry in sides for row in _measured_rows(index, entry)]
    header = ("side and counter", "measured", "formula", "trace", "runs")
    failed = (
        f"{letter(index)} failed: {failure}"
        for index, entry in sides
        for failure in dict.fromkeys(run.failure for run in entry.repeats if run.failure)
    )
    caption = "Each in a fresh process: the run with the median peak"
    return Html(table(caption, header, rows) + listing(failed))


def _measured_rows(index: int, entry: Compared) -> Iterator[tuple[str, ...]]:
    for line in entry.lines:
        yield (
            f"{letter(index)}, {line.kind}",
            format_bytes(line.measured_bytes),
            _beside(line.formula_bytes, line.error("formula")),
            _beside(line.trace_bytes, line.error("trace")),
            str(sum(not run.failure for run in entry.repeats)),
        )


def _beside(num_bytes: int | None, error: float | None) -> str:
    if num_bytes is None:
        return "n/a"
    return format_bytes(num_bytes) + ("" if error is None else f" ({error:+.1%})")


def _facts(comparison: Comparison) -> Html:
    made = [
        (index, entry)
        for index, entry in enumerate(comparison.entries)
        if entry.estimate is not None
    ]
    header = ("fact", *(letter(index) for index, _ in made))
    rows = [(name, *values) for name, values in comparison.facts.items()]
    return table("Facts that the sides do not share", header, rows)


def _same(comparison: Comparison) -> Html:
    """What the sides share: settings, facts of the models, components."""
    same = comparison.same_components.items()
    facts = [
        ("settings of all", comparison.shared),
        *comparison.same_facts.items(),
        *((f"{look(name).words} at the peak", format_bytes(amount)) for name, amount in same),
    ]
    return table("What they share", ("fact", "value"), [f for f in facts if f[1]], words=1)


def _difference(difference: Difference, comparison: Comparison) -> Html:
    name = letter(difference.index)
    rows: list[Sequence[str]] = [
        (component(part.name), *map(format_bytes, (part.a_bytes, part.b_bytes)),
         signed(part.change_bytes))
        for part in difference.components
        if part.a_bytes or part.b_bytes
    ]  # fmt: skip
    peaks = map(_device, (comparison.entries[0], comparison.entries[difference.index]))
    rows.append(("device", *peaks, signed(difference.change_bytes)))
    label = comparison.entries[difference.index].label
    return section(
        f"{name} against A: {label}",
        table("Components at both peaks", ("component", "A", name, "change"), rows),
        table("One setting at a time", ("setting", "moves", "from and to"),
              list(map(_step, difference.steps)), words=1),
        listing(difference.reasons),
    )  # fmt: skip


def _device(entry: Compared) -> str:
    estimate = entry.estimate
    return "n/a" if estimate is None else format_bytes(estimate.binding.peak.device_bytes)


def _step(step: Step) -> tuple[str, str, str]:
    titles = " with ".join(part.title for part in step.parts)
    values = "; ".join(f"{part.before} → {part.after}" for part in step.parts)
    return (titles, signed(step.change_bytes), values)


def _sides(comparison: Comparison) -> Iterator[Html]:
    same = set(comparison.same_assumptions)
    for index, entry in enumerate(comparison.entries):
        estimate = entry.estimate
        if estimate is None:
            continue
        own = listing(text for text in estimate.assumptions if text not in same)
        label = f"{letter(index)}: {entry.label}"
        yield folded(label, breakdowns(estimate), own, listing(estimate.unsupported))
