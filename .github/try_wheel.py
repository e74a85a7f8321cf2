"""Import an installed wheel and score the example files with it: needs numpy alone, no test packages."""

import sys
import sysconfig
from pathlib import Path

import kullback
import numpy as np
from kullback import _core

examples = Path(sys.argv[1])
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    assert not sys._is_gil_enabled(), "importing kullback switched the interpreter lock back on"

base, other = np.load(examples / "digits.npy"), np.load(examples / "digits-int4.npy")
kl = kullback.kl_divergence(base, other, given="logits")
log_p, log_q = (
    x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (base.astype(np.float64), other.astype(np.float64))
)
expected = (np.exp(log_p) * (log_p - log_q)).sum(-1)
worst = np.max(np.abs(kl - expected) / expected)
print(sys.version, np.__version__, _core.simd_levels(), f"worst relative error {worst:.1e}")
assert worst < 1e-6
