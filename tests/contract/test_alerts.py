"""Alerts read what is exported: a rule on a name that nobody writes never fires."""

import re
from pathlib import Path

import pytest

RULES = Path("infra/alerts.yaml").read_text().split("- alert: ")[1:]
_UNITS = {"s": "_seconds", "By": "_bytes", "": ""}
_NAMED = re.compile(
    r'(?P<kind>_Counter|Gauge|create_histogram)\(\s*"(?P<name>sluice_\w+)"(?P<rest>.*?)\n?\)\n',
    re.DOTALL,
)


def exported() -> set[str]:
    """By the names that the exporter makes of them."""
    found = set()
    for path in ("shared/telemetry.py", "shared/gauges.py"):
        for declared in _NAMED.finditer(Path(path).read_text()):
            unit = re.search(r'unit="(\w*)"', declared["rest"])
            name = declared["name"] + _UNITS[unit[1] if unit else ""]
            found.add(f"{name}_total" if declared["kind"] == "_Counter" else name)
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.split("\n")[0])
def test_an_alert_reads_what_is_exported(rule: str) -> None:
    (expression,) = re.findall(r"expr: (.+)", rule)
    names = set(re.findall(r"sluice_\w+", expression))
    assert names
    assert names <= exported()
    assert "summary:" in rule
    assert re.search(r"severity: (page|ticket)\b", rule)
