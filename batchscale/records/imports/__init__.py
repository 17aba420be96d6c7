"""Logs of other tools to records: found, read as they are, understood, shown, and only then written."""

from batchscale.records.imports.plan import plan
from batchscale.records.imports.rows import Choices
from batchscale.records.imports.write import refuse_existing, write

__all__ = ["Choices", "plan", "refuse_existing", "write"]
