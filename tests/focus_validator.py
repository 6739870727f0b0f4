"""Run the public FOCUS validator over bills of ours, in an environment of its own.

    python -m tests.focus_validator [--python PATH] [--environment DIR]

focus-validator 2.2.1 needs Python 3.12 or newer and 630 MB of packages that would fight with ours,
so it gets a virtual environment, made the first time. It ends with 0 when every file passes but
for the one contradiction in its rules, with 1 when a file fails, and with 77 when it cannot be had
here: the one check that may be left out, and says so.

What it asks of whoever runs it: it is started in a directory with a link to its own package, for
it opens a file of its own by a relative path; its exit code is 0 whatever it finds, so its JUnit
report is read. Our own check (``aruntime_exporters.focus_check``) is the strict one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from aruntime_exporters.focus import FocusCsv, FocusParquet

from tests.billing import NOVEMBER, bill_of, records_of_days
from tests.ledgers import correction

NAME = "focus-validator"
PACKAGES = ("focus-validator==2.2.1", "pyarrow==25.0.0")
"""A newer pyarrow refuses the numpy that the validator pins."""
OLDEST = (3, 12)
LEFT_OUT = 77
INSTALL_SECONDS = 420
RUN_SECONDS = 120

CRITERIA = (
    "ACCOUNT_NAMING_SUPPORTED", "USAGE_MEASUREMENT_SUPPORTED", "UNIT_PRICING_SUPPORTED",
    "PUBLIC_PRICE_LIST_SUPPORTED", "SUB_ACCOUNT_SUPPORTED",
    "BILLING_BASED_ON_PROVISIONED_RESOURCES_SUPPORTED", "RESOURCE_TYPE_ASSIGNMENT_SUPPORTED",
    "TAGGING_SUPPORTED", "REGION_SUPPORTED",
)  # fmt: skip

EXPECTED = frozenset({"InvoiceId-C-004-C"})
"""It says that InvoiceId must be null, and another that it must not: the conditions of both were
lost in the rule model. The rule above them, which takes either, passes."""
LEAST_PASSED = 254


class LeftOut(Exception):
    """The validator cannot be had here."""


def find_python(given: str) -> str:
    """Return an interpreter that is new enough.

    Raises:
        LeftOut: there is none.
    """
    minors = range(OLDEST[1], OLDEST[1] + 3)
    names = [given] if given else [f"python3.{minor}" for minor in minors]
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [path for path in (shutil.which(name) for name in names) if path]
    if not given:
        for minor in minors:
            found += [str(path) for path in sorted(home.glob(f"3.{minor}.*/bin/python"))]
    for path in found:
        shown = subprocess.run(
            [path, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if shown.returncode == 0 and tuple(map(int, shown.stdout.split())) >= OLDEST:
            return path
    raise LeftOut(f"it needs Python {OLDEST[0]}.{OLDEST[1]} or newer, and none was found")


def environment(python: str, directory: Path) -> Path:
    """Return the site-packages of an environment that has the validator; make it if need be.

    Raises:
        LeftOut: it cannot be installed.
    """
    done = directory / "installed"
    if not done.exists():
        for command in (
            [python, "-m", "venv", "--clear", str(directory)],
            [str(directory / "bin/pip"), "install", "--quiet", *PACKAGES],
        ):
            made = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
            if made.returncode:
                last = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise LeftOut(f"its environment cannot be made: {last}")
        done.touch()
    return next(directory.glob("lib/python3.*/site-packages"))


def write_bills(directory: Path) -> list[Path]:
    """Write bills of several seeds, one with a late correction, as CSV and as Parquet."""
    files = []
    for seed in (3, 4):
        records = records_of_days(seed, hours=8)
        if seed == 4:
            sold = next(one for one in records if one.proc_write)
            late = correction(sold, late_ns=NOVEMBER.end_ns - 1, proc_write=-sold.proc_write)
            records.append(late)
        bill = bill_of(records)
        for exporter, suffix in ((FocusCsv(), "csv"), (FocusParquet(), "parquet")):
            path = directory / f"bill-{seed}.{suffix}"
            with path.open("wb") as file:
                exporter.write(bill, file)
            files.append(path)
    return files


def validate(packages: Path, place: Path, file: Path) -> tuple[set[str], int]:
    """Return the names of the rules that a file fails, and how many it passes."""
    link = place / "focus_validator"
    if not link.exists():
        link.symlink_to(packages / "focus_validator")
    report = place / f"{file.name}.xml"
    done = subprocess.run(
        [
            str(packages.parents[2] / "bin" / NAME), "--data-file", str(file),
            "--validate-version", "1.2", "--block-download", "--output-type", "unittest",
            "--output-destination", str(report),
            "--applicability-criteria", ",".join(CRITERIA),
        ],
        cwd=place, capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
    )  # fmt: skip
    if not report.exists():
        raise AssertionError(f"{NAME} wrote no report: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = {
        str(failure.get("name")) for case in cases for failure in case.iter("failure")
    }  # fmt: skip
    return failed, sum(len(case) == 0 for case in cases)


def main(argv: Sequence[str] | None = None) -> int:
    """Validate, tell, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.focus_validator")
    parser.add_argument("--python", default="", help="interpreter for its environment")
    parser.add_argument(
        "--environment",
        type=Path,
        default=Path.home() / ".cache" / "aruntime" / "focus-validator-2.2.1",
        help="where its environment is or will be",
    )
    options = parser.parse_args(argv)
    try:
        packages = environment(find_python(options.python), options.environment)
    except (LeftOut, OSError, subprocess.TimeoutExpired) as error:
        say(f"{NAME} 2.2.1 is left out: {error}")
        return LEFT_OUT
    wrong = 0
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        for file in write_bills(place):
            failed, passed = validate(packages, place, file)
            is_right = failed == EXPECTED and passed >= LEAST_PASSED
            wrong += not is_right
            verdict = "as expected" if is_right else "WRONG"
            say(f"{file.name}: {passed} rules passed, failed {sorted(failed)}: {verdict}")
    return 1 if wrong else 0


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
