"""Traces of a process that the system killed: of shells, launchers, the kernel, schedulers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_NO: Final = r"(?![\"']?\s{0,2}[:=]\s{0,2}(?:false|no|0))"
_PID: Final = r"(?P<pid>\d{1,10})"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One wording; its named groups are ``pid``, the process, and amounts of kB by field."""

    pattern: re.Pattern[str]
    """For one line's text, spaces and all."""
    mark: str
    follows: bool = False
    """What a launcher says of a worker that it may have killed itself, after another's failure."""
    free: bool = False
    """Too particular for prose; the others must stand where a program would put them."""


def _trace(pattern: str, mark: str, *, follows: bool = False, free: bool = False) -> Trace:
    return Trace(pattern=re.compile(pattern), mark=mark, follows=follows, free=free)


_BAR: Final = r"(?:it/s|s/it|[kMG]?B/s|steps?/s|\d%)[^\]]{0,80}\]?"
_EXIT: Final = (
    r"(?i:\b(?:exit|return)(?:[ -](?:code|status)\b|[_]?(?:code|status)\b(?!\s=))"
    r"|\bnon-zero (?:exit )?(?:code|status)\b)[\"']?\s{0,2}(?:[:=](?!=))?\s?(?:of )?\(?"
)

TRACES: Final[tuple[Trace, ...]] = (
    # shells: bash and dash of a script, an interactive job, zsh, macOS, make; a bar's line goes on
    _trace(r"^Killed(?: \(core dumped\))?\.?$", "shell", free=True),
    _trace(rf"{_BAR}\s?Killed$", "shell", free=True),
    _trace(rf"\bline \d{{1,7}}: {_PID} Killed\b", "shell"),
    _trace(rf"^\[\d{{1,3}}\] ?[+-]? (?:{_PID} )?[Kk]illed\b", "shell"),
    _trace(r"^(?:zsh|bash|-bash|sh|dash|ksh): (?:\d{1,10} )?[Kk]illed\b", "shell"),
    _trace(r"^(?:\S{1,80}: )?Killed: 9\b", "shell"),
    _trace(r"\bmake(?:\[\d{1,3}\])?: \*\*\* \[[^\]]{1,200}\] (?:Killed|Error 137)", "shell"),
    # the kernel, its memory cgroups, daemons that act before it
    _trace(
        rf"(?:[Mm]emory cgroup o|O|\bo)ut of memory: Kill(?:ed)? process {_PID},? ?\([^)]{{1,60}}\)"
        r"(?:.{0,60}? total-vm:(?P<total_vm_bytes>\d{1,15})kB)?"
        r"(?:,? anon-rss:(?P<anon_rss_bytes>\d{1,15})kB)?",
        "kernel",
        free=True,
    ),
    _trace(
        rf"Killed process {_PID},? ?\([^)]{{1,60}}\).{{0,60}}?"
        r"total-vm:(?P<total_vm_bytes>\d{1,15})kB"
        r"(?:,? anon-rss:(?P<anon_rss_bytes>\d{1,15})kB)?",
        "kernel",
        free=True,
    ),
    _trace(rf"\boom-kill:constraint=.{{0,600}}?\bpid={_PID}", "kernel", free=True),
    _trace(r"\binvoked oom-killer: ", "kernel", free=True),
    _trace(r"\boom_reaper: reaped process " + _PID, "kernel", free=True),
    _trace(
        r"\bearlyoom\b.{0,80}\bsending SIG(?:TERM|KILL) to process " + _PID, "kernel", free=True
    ),
    _trace(r"\bKilled /\S{1,300} due to memory (?:used|pressure)", "systemd", free=True),
    _trace(r"Failed with result 'oom-kill'", "systemd", free=True),
    _trace(r"process of this unit has been killed by the OOM killer", "systemd", free=True),
    _trace(r"code=killed, (?:status|signal)=(?:9/)?KILL", "systemd", free=True),
    # schedulers and containers
    _trace(r"Detected \d{1,6} oom[-_]kill events?(?:\(s\))? in\b", "slurm", free=True),
    _trace(r"tasks? have been OOM Killed", "slurm", free=True),
    _trace(r"\btasks? [\d,-]{1,40}: Out Of Memory\b", "slurm", free=True),
    _trace(r"\bExceeded (?:job|step) memory limit\b", "slurm", free=True),
    _trace(rf"\bOOM[Kk]illed\b{_NO}", "container"),
    _trace(r"OutOfMemoryError: Container killed due to memory usage", "container", free=True),
    _trace(r"[Cc]ontainer killed by YARN for exceeding (?:\w{1,20} )?memory limits", "container"),
    # runtimes and launchers, who know no more than the signal
    _trace(rf"Signal 9 \(SIGKILL\) received by PID {_PID}", "sigkill", follows=True),
    _trace(r"died with <Signals\.SIGKILL: 9>", "sigkill", follows=True),
    _trace(
        r"(?i:\b(?:killed|terminated|interrupted|exited) (?:by|with|on|due to)(?: a)? '?signal:? ?)"
        r"(?:9\b|SIGKILL|Killed|KILL\b)",
        "sigkill",
        follows=True,
    ),
    _trace(r"KILLED BY SIGNAL: 9\b", "sigkill", follows=True),
    _trace(r"\bSIGKILL\(-9\)", "sigkill", follows=True),
    _trace(r"was sent SIGKILL! Perhaps out of memory\?", "sigkill", free=True),
    _trace(r"\bsignal: killed\b", "sigkill", follows=True),
    _trace(
        rf"{_EXIT}(?:137|-9)(?![\d.%])(?:\)?.{{0,40}}?\(pid: {_PID}\))?", "exit_137", follows=True
    ),
    _trace(r"(?i:\bexited (?:with )?(?:code )?)\(?137\)?(?![\d.%])", "exit_137", follows=True),
    _trace(rf"{_EXIT}(?:135|-7)(?![\d.%])", "sigbus", follows=True),
    _trace(rf"\bsigkill_handler\] Killing subprocess {_PID}", "launcher", follows=True),
)
"""Sources: bash jobs.c and siglist.c, mm/oom_kill.c, slurmstepd, systemd's unit log, kubelet's
container reasons, torch elastic's and DeepSpeed's launchers, Python's subprocess, gunicorn, MPI."""

NEEDLES: Final = (
    "Killed", "illed process", "oom-kill", "oom_kill", "oom_reaper", "earlyoom", "OOMKilled",
    "OOMkilled", "OOM killer", "OOM Killed", "code=killed", "Out Of Memory", "memory limit",
    "killed due to memory", "killed by YARN", "SIGKILL", "signal: killed", "by signal",
    "with signal", "on signal", "SIGNAL: 9", "sh: killed", "] killed", "+ killed", "- killed",
    "killed  ", "xit code", "xit Code", "xitcode", "xitCode", "xit status",
    "eturn code", "eturncode", "zero code", "xited (137", "xited with", "Error 137",
    "sigkill_handler", "Kill process",
)  # fmt: skip
"""One of these is in every line that a trace is in."""
