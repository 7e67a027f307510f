"""The versions of kernel families, which can be read without loading TVM.

A version is incremented when a plan generates different code: earlier measurements are then ignored.
"""

from __future__ import annotations

VERSIONS = {
    "conv_winograd": 1,
    "conv_direct": 2,
    "conv_depthwise": 1,
    "conv_plain": 1,
    "matmul": 2,
    "matmul_nbits": 2,
}
