"""Checks what linters do not: file and function sizes, module docstrings, a test folder for each room."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
MEDIAN_LINES_MAX = 10
ROOMS_WITHOUT_TESTS = {"terms", "__pycache__"}


def sources() -> list[Path]:
    """Every Python file that ships."""
    return sorted([*(ROOT / "meshnode").rglob("*.py"), *(ROOT / "protocol").rglob("*.py")])


def functions(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """Name, first line and length of each function; the docstring does not count."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            yield node.name, node.lineno, length - docstring_lines(node)


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many lines the docstring takes."""
    if ast.get_docstring(node) is None:
        return 0
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1


def faults_of(path: Path, lengths: list[int]) -> Iterator[str]:
    """What is untidy in one file; adds the lengths of its functions to `lengths`."""
    text = path.read_text(encoding="utf-8")
    where = path.relative_to(ROOT)
    tree = ast.parse(text)
    if text.count("\n") > FILE_LINES_MAX:
        yield f"{where}: {text.count(chr(10))} lines, over {FILE_LINES_MAX}: it has two jobs"
    if not ast.get_docstring(tree):
        yield f"{where}: no module docstring"
    for name, line, length in functions(tree):
        lengths.append(length)
        if length > FUNCTION_LINES_MAX:
            yield f"{where}:{line}: {name} has {length} lines, over {FUNCTION_LINES_MAX}"


def rooms_without_tests() -> Iterator[str]:
    """Rooms of the house that no folder of tests/ mirrors."""
    rooms = [path.name for path in sorted((ROOT / "meshnode").iterdir()) if path.is_dir()]
    for room in ["meshwire", *rooms]:
        if room not in ROOMS_WITHOUT_TESTS and not list((ROOT / "tests" / room).glob("test_*.py")):
            yield f"tests/{room}: no test module for this room"


def main() -> int:
    """Print every fault; 1 if there is any."""
    lengths: list[int] = []
    faults = [fault for path in sources() for fault in faults_of(path, lengths)]
    faults += rooms_without_tests()
    median = sorted(lengths)[len(lengths) // 2] if lengths else 0
    if median > MEDIAN_LINES_MAX:
        faults.append(f"the median function has {median} lines, over {MEDIAN_LINES_MAX}")
    for fault in faults:
        print(fault)
    print(f"tidy: {len(lengths)} functions, median {median} lines, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
