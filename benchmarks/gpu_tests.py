"""Run the tests that need a GPU and write their outcome as JSON.

python benchmarks/gpu_tests.py tests --out gpu_tests.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import torch
from record import write

COUNTS = ("tests", "failures", "errors", "skipped")


def outcome(report: Path) -> tuple[dict[str, int], list[dict]]:
    """Read counts, and one row per test that was not skipped, from a report in JUnit's form."""
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    rows = []
    for case in suite.iter("testcase"):
        kinds = {child.tag for child in case}
        if "skipped" in kinds:
            continue
        result = "failed" if kinds & {"failure", "error"} else "passed"
        name = f"{case.get('classname')}::{case.get('name')}"
        rows.append({"test": name, "result": result, "seconds": float(case.get("time", 0))})
    return {name: int(suite.get(name, 0)) for name in COUNTS}, rows


def main() -> None:
    """Run pytest; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="+", help="files and folders")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *args.tests, f"--junitxml={report}"]
        status = subprocess.call(command)
        if not report.is_file():
            sys.exit(status)
        counts, rows = outcome(report)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    write(args.out, device, rows, counts=counts, pytest_exit_code=status)
    print(json.dumps(counts))
    sys.exit(status)


if __name__ == "__main__":
    main()
