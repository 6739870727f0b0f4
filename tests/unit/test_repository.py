"""The repository's own rules as tests: linters, types, import contracts, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MODULE_LINES = 400
FUNCTION_LINES = 50

CHECKS = {
    "ruff check": ["ruff", "check", "--no-cache", "."],
    "ruff format": ["ruff", "format", "--no-cache", "--check", "."],
    "mypy": ["mypy"],
    "import contracts": ["lint-imports", "--no-cache"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_linter_finds_nothing(name: str) -> None:
    """Every linter passes over the whole tree."""
    program, *arguments = CHECKS[name]
    done = subprocess.run(
        [BIN / program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def python_files() -> list[Path]:
    """Return the product's own modules."""
    return sorted([*(ROOT / "aruntime").rglob("*.py"), *(ROOT / "exporters").rglob("*.py")])


def test_modules_can_be_read_in_one_sitting() -> None:
    """No module has more than 400 lines."""
    long = {str(path): len(path.read_text().splitlines()) for path in python_files()}

    assert {path: lines for path, lines in long.items() if lines > MODULE_LINES} == {}


def test_functions_name_their_steps() -> None:
    """No function has more than 50 lines without its docstring."""
    found = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                lines = (node.end_lineno or 0) - node.lineno + 1
                lines -= docstring.count("\n") + 1 if docstring else 0
                if lines > FUNCTION_LINES:
                    found.append(f"{path}:{node.lineno} {node.name}: {lines}")

    assert found == []


def test_shim_imports_little() -> None:
    """What the shim and every init have loaded is small: nothing that typing or enum drag in."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import aruntime.shim.loop;"
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(ROOT)],
        capture_output=True,
        text=True,
        check=True,
    )

    heavy = {"typing", "dataclasses", "enum", "re", "threading", "subprocess", "logging",
             "pathlib", "trio", "structlog", "msgspec", "asyncio"}  # fmt: skip
    assert heavy & set(done.stdout.split()) == set()
