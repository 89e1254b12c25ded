"""The style of a report's page: light, dark, on a phone and printed."""

from __future__ import annotations

from typing import Final

from willfit.report.palette import DARK_INK, DARK_PAPER, LIGHT_INK, LIGHT_PAPER

FIGURE_STYLE: Final = (
    ".willfit-narrow{display:none}"
    "@media screen and (max-width:700px){.willfit-wide{display:none}.willfit-narrow{display:block}}"
)
"""Rules that `figure` needs in the page around it."""
STYLE: Final = f"""
:root{{color-scheme:light dark;--paper:{LIGHT_PAPER};--ink:{LIGHT_INK};--line:#6e7781;
--soft:#f3f5f7;--good:#1a6b34;--fair:#7a4d00;--bad:#a3201a}}
@media (prefers-color-scheme:dark){{:root{{--paper:{DARK_PAPER};--ink:{DARK_INK};--line:#8b949e;
--soft:#1b222b;--good:#6fd48c;--fair:#e9b44c;--bad:#ff938a}}}}
@media print{{:root{{color-scheme:light;--paper:#ffffff;--ink:#000000;--soft:#ffffff;--good:#000000;
--fair:#000000;--bad:#000000}}section,figure,tr{{break-inside:avoid}}details{{display:none}}}}
*{{box-sizing:border-box}}
html{{-webkit-text-size-adjust:100%}}
body{{margin:0 auto;padding:1rem;max-width:50rem;background:var(--paper);color:var(--ink);
font:1rem/1.5 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;overflow-wrap:anywhere;
print-color-adjust:exact;-webkit-print-color-adjust:exact}}
h1{{font-size:1.5rem;line-height:1.25;margin:.5rem 0}}
h2{{font-size:1.2rem;margin:2rem 0 .5rem}}
h3{{font-size:1rem;margin:1.5rem 0 .5rem}}
p,ul,dl{{margin:.5rem 0}}
ul{{padding-left:1.2rem}}
.verdict{{font-size:1.1rem;font-weight:600;border-left:.4rem solid;padding:.25rem .75rem}}
.fits{{color:var(--good)}}.tight{{color:var(--fair)}}.does_not_fit{{color:var(--bad)}}
figure{{margin:1rem -14px}}
svg{{display:block}}
.scroll{{overflow-x:auto}}
table{{border-collapse:collapse;width:100%;margin:.75rem 0;font-size:.9rem;
overflow-wrap:break-word}}
caption{{text-align:left;font-weight:600;padding:.25rem 0}}
th,td{{text-align:left;vertical-align:top;padding:.3rem .6rem .3rem 0;
border-bottom:1px solid var(--line)}}
tbody th{{font-weight:400}}
.amount{{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}}
thead .amount{{white-space:normal}}td:last-child{{overflow-wrap:anywhere}}
@media (max-width:30rem){{table{{font-size:.8rem}}}}
.component{{white-space:nowrap}}
.key{{display:inline-block;width:.75em;height:.75em;border:1px solid var(--ink)}}
dt{{font-weight:600}}dd{{margin:0 0 .4rem 1rem}}
pre{{background:var(--soft);border:1px solid var(--line);padding:.75rem;overflow:auto;
font-size:.85rem;max-height:30rem;overflow-wrap:normal}}
pre.wrapped{{white-space:pre-wrap;overflow-wrap:anywhere}}
summary{{cursor:pointer;padding:.5rem 0}}
:focus-visible{{outline:3px solid var(--ink);outline-offset:2px}}
footer{{margin-top:2rem;font-size:.9rem}}
{FIGURE_STYLE}
"""
