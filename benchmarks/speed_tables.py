"""The tables of speed in the documentation, from the reports that `make bench` left: one file a processor.

python benchmarks/speed_tables.py     # writes docs/measured_speed.md, and the table in README.md
"""

from __future__ import annotations

import json
from pathlib import Path

from musiq_ref.bench.tables import header, markdown, short_markdown

ROOT = Path(__file__).parent.parent
PAGE, README = ROOT / "docs" / "measured_speed.md", ROOT / "README.md"
BEGIN, END = "<!-- speed: python benchmarks/speed_tables.py -->\n", "<!-- end of speed -->\n"


def reports() -> list[dict]:
    """Of all processors, in the order of their names."""
    return [json.loads(file.read_text("utf-8")) for file in sorted((ROOT / "docs" / "benchmarks").glob("*.json"))]


def page() -> str:
    """docs/measured_speed.md: everything, of every processor."""
    return "\n".join(markdown(report) for report in reports())


def readme() -> str:
    """README.md with its table made anew: the main columns, of every processor."""
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    tables = "\n".join(f"{_machine(report)}:\n\n{short_markdown(report)}" for report in reports())
    return f"{before}{BEGIN}\n{tables}\n{END}{rest.partition(END)[2]}"


def _machine(report: dict) -> str:
    return "; ".join(line for line in header(report) if not line.startswith("left out"))


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")


if __name__ == "__main__":
    main()
