"""Reports as one file each: no script, nothing from elsewhere, the contract's JSON inside."""

from willfit.report.html.comparison import comparison_html
from willfit.report.html.estimate import estimate_html
from willfit.report.html.plan import plan_html
from willfit.report.html.reading import embedded_json
from willfit.report.html.run import run_html

__all__ = ["comparison_html", "embedded_json", "estimate_html", "plan_html", "run_html"]
