"""Documents of the commands as text: JSON, tables for a terminal, Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["render"]
