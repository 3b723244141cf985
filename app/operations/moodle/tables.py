"""Cells of the CSV files that we write: what a spreadsheet would run as a formula is put in quotes."""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Also the wide forms, which some spreadsheets take for the plain ones."""
ESCAPE = "'"


def safe_cell(text: str) -> str:
    """Return a cell that no spreadsheet runs: one that could begin a formula begins with a quote."""
    return ESCAPE + text if text.startswith(FORMULA_STARTS) else text
