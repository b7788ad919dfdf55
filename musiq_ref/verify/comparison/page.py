"""A comparison as one HTML page that needs no other file: ladder, growth over depth, histograms, diagnosis.

Colours are a single-hue scale from light to dark for sizes, with blue for fine and orange for wrong: they can be told
apart with any colour vision, and every mark has a letter or a number as well.
"""

from __future__ import annotations

import math
from html import escape

from musiq_ref.outputs import GENERATOR
from musiq_ref.verify.comparison.report import (
    MARKS,
    Comparison,
    Rung,
    amount,
    describe,
    diagnosis_lines,
    grouped,
    verdict,
)
from musiq_ref.verify.comparison.suite import SHORT, SuiteComparison, suite_verdict, table_rows
from musiq_ref.verify.ladder.stages import BACK

AGREES, DIFFERS = "MUSIQ port: agrees with the reference", "MUSIQ port: differs from the reference"
STYLE = """
:root{--ink:#1b1f24;--soft:#59636e;--line:#d8dee4;--card:#fff;--page:#f6f8fa;--ok:#0b66b3;--bad:#c8500a}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1060px;margin:0 auto;padding:20px 16px 60px}h1{font-size:24px;margin:8px 0 2px}
h2{font-size:17px;margin:0 0 10px}section{background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:16px 18px;margin:16px 0;overflow-x:auto}p{margin:4px 0}.soft{color:var(--soft)}
.verdict{display:inline-block;font-weight:700;color:#fff;border-radius:6px;padding:2px 12px;background:var(--ok)}
.verdict.no{background:var(--bad)}.group{display:grid;grid-template-columns:190px 1fr;gap:4px 12px;align-items:start;
margin:7px 0}.cells{display:flex;flex-wrap:wrap;gap:3px}.cell{width:21px;height:21px;border-radius:4px;display:flex;
align-items:center;justify-content:center;font-size:11px;border:1px solid rgba(0,0,0,.1);text-decoration:none;
color:#10243a}.cell.dark{color:#fff}.cell.first{outline:3px solid var(--ink);outline-offset:1px}
.legend{display:flex;flex-wrap:wrap;gap:6px 16px;margin-top:10px;font-size:13px;color:var(--soft)}
.legend span{display:flex;align-items:center;gap:6px}svg{display:block;max-width:100%;height:auto}
.chart{overflow-x:auto}.chart svg{min-width:700px}
svg text{font:11px system-ui,sans-serif;fill:#59636e}table{border-collapse:collapse;width:100%;font-size:13px}
td,th{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--line);white-space:nowrap}
td.num{text-align:right;font-variant-numeric:tabular-nums}code{font:13px ui-monospace,monospace}
.small{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:14px}.small figure{margin:0}
figcaption{font-size:12px;color:var(--soft);overflow-wrap:anywhere}ul{margin:6px 0;padding-left:20px}
details>summary{cursor:pointer;font-weight:600}
@media(max-width:640px){.group{grid-template-columns:1fr}section{padding:12px}h1{font-size:20px}}
"""


def as_page(c: Comparison) -> str:
    """The whole page.

    >>> as_page(Comparison([Rung("score", "equal")], {})).startswith("<!doctype html>")
    True
    """
    title = AGREES if c.passed else DIFFERS
    return whole_page(title, "\n".join([header(c, title), sections(c)]))


def as_suite_page(s: SuiteComparison) -> str:
    """The whole page of a suite: a table, case by rung, and all of every case below.

    >>> as_suite_page(SuiteComparison({"portrait": Comparison([Rung("score", "equal")], {})})).count("<details")
    2
    """
    title = AGREES if s.passed else DIFFERS
    word, _, rest = suite_verdict(s).partition(": ")
    style = "verdict" if s.passed else "verdict no"
    parts = [f'<h1>{title}</h1><p><span class="{style}">{word}</span> {escape(rest)}</p>', suite_table(s)]
    for case, c in s.cases.items():
        about = f"<code>{escape(case)}</code> {escape(verdict(c))}"
        opened = "" if c.passed else " open"
        parts.append(f'<details{opened} id="{escape(case)}"><summary>{about}</summary>{sections(c)}</details>')
    return whole_page(title, "\n".join(parts))


def suite_table(s: SuiteComparison) -> str:
    """The cases in rows, the rungs of the ladder in columns."""
    titles, worst = table_rows(s)
    rows = []
    for case, rungs in worst.items():
        first, nothing = s.cases[case].first, Rung("nothing", "missing")
        cells = "".join(f"<td>{_cell(r, r is first) if r else _cell(nothing, False)}</td>" for r in rungs)
        rows.append(f'<tr><td><a href="#{escape(case)}">{escape(case)}</a></td>{cells}</tr>')
    rest = {**dict.fromkeys(s.missing, "nothing given"), **s.failed}
    rows += [f"<tr><td>{escape(k)}</td><td colspan={len(titles)}>{escape(v)}</td></tr>" for k, v in rest.items()]
    heads = "".join(f"<th>{escape(SHORT.get(title, title))}</th>" for title in titles)
    legend = "= equal&emsp;≈ rounding&emsp;✗ differs&emsp;· not given"
    return (
        "<section><h2>Cases</h2><p class='soft'>The worst stage of each rung of the ladder; point at a cell for its "
        f"name.</p><table><tr><th>case</th>{heads}</tr>{''.join(rows)}</table><p class='soft'>{legend}</p></section>"
    )


def sections(c: Comparison) -> str:
    """All about one comparison but its verdict."""
    parts = [first_section(c), diagnosis_section(c), ladder(c), growth(c), histograms(c), table(c)]
    return "\n".join(part for part in parts if part)


def whole_page(title: str, body: str) -> str:
    """A page of its own."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">{GENERATOR}<title>{title}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{body}</main></body></html>\n"
    )


def header(c: Comparison, title: str) -> str:
    word, _, rest = verdict(c).partition(": ")
    fixture = c.fixture
    conventions = [k for k in ("preset", "weights", "image", "precision") if fixture.get(k)]
    about = " · ".join(f"{k}: {escape(str(fixture[k]))}" for k in conventions)
    style = "verdict" if c.passed else "verdict no"
    return (
        f'<h1>{title}</h1><p><span class="{style}">{word}</span> {escape(rest)} '
        f'<span class="soft">({escape(c.mode)})</span></p><p class="soft">{about}</p>'
    )


def first_section(c: Comparison) -> str:
    if not c.first:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in describe(c.first))
    return f"<section><h2>First divergence: <code>{escape(c.first.name)}</code></h2><ul>{lines}</ul></section>"


def diagnosis_section(c: Comparison) -> str:
    if c.diagnosis is None:
        return ""
    lines = "".join(f"<li>{escape(line.strip())}</li>" for line in diagnosis_lines(c))
    rows = "".join(
        f"<tr><td>{escape(topic)}</td><td>{escape(value)}</td></tr>" for topic, value in c.diagnosis.conventions.items()
    )
    findings = f"<ul>{lines}</ul>" if lines else "<p>Nothing to explain.</p>"
    adapted = "".join(f"<li>{escape(text)}</li>" for text in [*c.layouts[:12], *c.notes])
    adapted = f"<h2>Adapted and noted</h2><ul>{adapted}</ul>" if adapted else ""
    return (
        f"<section><h2>Diagnosis</h2>{findings}{adapted}"
        f"<table><tr><th>convention</th><th>this port</th></tr>{rows}</table></section>"
    )


def colour(r: Rung) -> tuple[str, bool]:
    """Background of a cell and whether it is dark: blue while fine, orange from 1 to 10,000 times what is allowed."""
    if r.status == "missing":
        return "#eef1f4", False
    if r.status == "misshapen":
        return "#7a2d00", True
    if r.fine:
        level = 0 if r.excess <= 0.05 else 1 if r.excess <= 0.4 else 2
        return ("#d6e8f7", "#a5cdee", "#6fadde")[level], False
    level = min(int(math.log10(r.excess)), 3) if math.isfinite(r.excess) else 3
    return ("#f9c58d", "#f29b4b", "#d9681d", "#9c3f05")[level], level >= 2


def ladder(c: Comparison) -> str:
    rows = []
    for title, rungs in grouped(c.rungs).items():
        cells = "".join(_cell(r, r is c.first) for r in rungs)
        rows.append(f'<div class="group"><div>{title}</div><div class="cells">{cells}</div></div>')
    samples = [
        ("#d6e8f7", "fine"),
        ("#6fadde", "fine, near the limit"),
        ("#f9c58d", "up to 10 × too far"),
        ("#9c3f05", "over 1000 ×"),
        ("#eef1f4", "not given"),
    ]
    legend = "".join(f'<span><i class="cell" style="background:{c}"></i>{text}</span>' for c, text in samples)
    return (
        f"<section><h2>The ladder</h2><p class='soft'>From the integers to the score and back; one cell a stage, in "
        f"order. Point at a cell for its name, or open all numbers below; the first divergence has a frame.</p>"
        f'{"".join(rows)}<div class="legend">{legend}'
        "<span>= equal&emsp;≈ rounding&emsp;✗ differs&emsp;· not given</span></div></section>"
    )


def _cell(r: Rung, first: bool) -> str:
    background, dark = colour(r)
    tip = escape(f"{r.name}: {r.status}" + (f": {amount(r)}" if r.distance else ""), quote=True)
    classes = "cell" + (" dark" if dark else "") + (" first" if first else "")
    return f'<span class="{classes}" style="background:{background}" title="{tip}">{MARKS[r.status]}</span>'


def growth(c: Comparison) -> str:
    """Median error against depth, with what float32 itself does as the envelope."""
    rungs = [r for r in c.rungs if r.distance and r.float32 > 0 and not r.name.startswith((*BACK[1:], "loss/"))]
    if len(rungs) < 3:
        return ""
    width, height, left, top = 960, 250, 46, 12
    low, high = -9.0, 1.0

    def xy(i: int, value: float) -> str:
        level = min(max(math.log10(value) if value > 0 else low, low), high) if math.isfinite(value) else high
        x = left + i * (width - left - 12) / (len(rungs) - 1)
        return f"{x:.1f},{top + (high - level) * (height - top - 24) / (high - low):.1f}"

    mine = " ".join(xy(i, r.distance.bulk) for i, r in enumerate(rungs) if r.distance)
    own = " ".join(xy(i, r.float32) for i, r in enumerate(rungs))
    limit = [xy(i, 4 * r.float32) for i, r in enumerate(rungs)]
    floor = [xy(i, 1e-9) for i in range(len(rungs))]
    band = " ".join([*limit, *reversed(floor)])
    lines = "".join(
        f'<line x1="{left}" x2="{width - 12}" y1="{xy(0, 10.0**k).split(",")[1]}" y2="{xy(0, 10.0**k).split(",")[1]}" '
        f'stroke="#e6eaee"/><text x="4" y="{float(xy(0, 10.0**k).split(",")[1]) + 4:.0f}">1e{k}</text>'
        for k in range(-8, 2, 2)
    )
    dots = "".join(
        f'<circle cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="{3.2 if r.fine else 5}" '
        f'fill="{"#0b66b3" if r.fine else "#c8500a"}">'
        f"<title>{escape(r.name)}</title></circle>"
        for r, p in zip(rungs, mine.split(), strict=True)
    )
    turn = next((i for i, r in enumerate(rungs) if r.name.startswith("gradient/")), None)
    marker = ""
    if turn:
        x = xy(turn, 1).split(",")[0]
        marker = (
            f'<line x1="{x}" x2="{x}" y1="{top}" y2="{height - 24}" stroke="#8c959f" stroke-dasharray="4 4"/>'
            f'<text x="{float(x) + 5:.0f}" y="{top + 10}">the way back</text>'
        )
    return (
        "<section><h2>Error against depth</h2><p class='soft'>Median error over median value. The band is what float32 "
        "rounding explains; the thin line is the reference's own float32 run.</p>"
        f'<div class="chart"><svg viewBox="0 0 {width} {height}" role="img" aria-label="error of every stage">{lines}'
        f'<polygon points="{band}" fill="#dbeafe" opacity=".8"/><polyline points="{own}" fill="none" stroke="#59636e" '
        f'stroke-dasharray="2 3"/><polyline points="{mine}" fill="none" stroke="#1b1f24"/>{dots}{marker}'
        f'<text x="{left}" y="{height - 6}">image</text><text x="{width - 90}" y="{height - 6}">last stage</text></svg>'
        "</div></section>"
    )


def histograms(c: Comparison) -> str:
    """Histograms of the errors of the stages that are furthest off, the first divergence first."""
    have = [r for r in c.rungs if r.histogram and r.distance and r.distance.max > 0]
    first = [r for r in have if r is c.first]
    chosen = first + sorted((r for r in have if r is not c.first), key=lambda r: -r.excess)[: 12 - len(first)]
    if not chosen:
        return ""
    figures = "".join(_histogram(r) for r in chosen)
    return (
        "<section><h2>Where the errors lie</h2><p class='soft'>How many values are how far off: |error| over the root "
        f"mean square of the stage, from 1e-10 to 10.</p><div class='small'>{figures}</div></section>"
    )


def _histogram(r: Rung) -> str:
    most = max(r.histogram) or 1
    fill = "#0b66b3" if r.fine else "#c8500a"
    bars = "".join(
        f'<rect x="{4 + k * 9}" y="{62 - 56 * n / most:.1f}" width="8" height="{56 * n / most:.1f}" fill="{fill}"/>'
        for k, n in enumerate(r.histogram)
    )
    axis = '<line x1="4" x2="202" y1="62.5" y2="62.5" stroke="#8c959f"/>'
    labels = "".join(f'<text x="{max(4 + (k + 10) * 18 - 8, 0)}" y="76">1e{k}</text>' for k in (-10, -7, -4, -1))
    return (
        f'<figure><svg viewBox="0 0 210 80">{bars}{axis}{labels}</svg><figcaption>{MARKS[r.status]} '
        f"{escape(r.name)}, {escape(amount(r))}</figcaption></figure>"
    )


def table(c: Comparison) -> str:
    rows = "".join(
        f"<tr><td>{MARKS[r.status]} {escape(r.name)}</td><td>{r.status}</td>"
        + "".join(f"<td class='num'>{format(x, spec) if math.isfinite(x) else '–'}</td>" for x, spec in _numbers(r))
        + f"<td>{escape(r.note)}</td></tr>"
        for r in c.rungs
        if r.distance
    )
    return (
        "<section><details><summary>All numbers</summary><table><tr><th>stage</th><th>status</th><th>median</th>"
        "<th>length</th><th>largest</th><th>ulps</th><th>cosine</th><th>× allowed</th><th></th></tr>"
        f"{rows}</table></details></section>"
    )


def _numbers(r: Rung) -> list[tuple[float, str]]:
    """The numbers of a stage, and how they are written."""
    d = r.distance
    if d is None:
        return []
    return [(d.bulk, ".1e"), (d.norm, ".1e"), (d.max, ".1e"), (r.ulps, ".2g"), (d.cosine, ".6f"), (r.excess, ".2g")]
