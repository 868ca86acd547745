"""What `xraygpt doctor` examines and `xraygpt inspect` reads.

`finding` needs no third-party library. The other modules are loaded one by one (see `xraygpt.cli.doctor`), so that a broken torch is
a line of the report and not the end of it.
"""

from xraygpt.diagnosis.finding import FAIL, OK, WARN, Finding, examine, quiet_logging, size

__all__ = ["FAIL", "OK", "WARN", "Finding", "examine", "quiet_logging", "size"]
