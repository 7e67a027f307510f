"""The TIR pipeline for scheduled CPU functions: from blocks to vector loops, then TVM's own lowering.

TVM's pipeline narrows indices to 32 bits before it partitions and vectorizes loops. In a function with symbolic
extents, which stay 64 bits wide, that leaves additions of both widths (an error in `LoopPartition`) and vector indices
that are no longer recognized as contiguous (a gather for every load). Here loops are partitioned and vectorized first,
and only scalars are narrowed. Common subexpressions are left to LLVM: TVM's pass moves them before the definitions of
the variables they use.

Importing this module registers the pipeline: `relax.build(mod, target, tir_pipeline=PIPELINE)`.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes

from graphopt.targets.tvm.kernels.common.expand import expand_functions
from graphopt.targets.tvm.tir_passes.alignment import any_address
from graphopt.targets.tvm.tir_passes.bfloat16 import only_bits, round_to_bfloat16
from graphopt.targets.tvm.tir_passes.bind_values import bind_values
from graphopt.targets.tvm.tir_passes.border import split_border
from graphopt.targets.tvm.tir_passes.compact import compact_buffers
from graphopt.targets.tvm.tir_passes.exact import restore_exact
from graphopt.targets.tvm.tir_passes.hoist import hoist_indices
from graphopt.targets.tvm.tir_passes.nan_tests import compare_bits_for_nan, unordered_not_equal
from graphopt.targets.tvm.tir_passes.peel import peel
from graphopt.targets.tvm.tir_passes.stack import keep_locals_on_stack
from graphopt.targets.tvm.tir_passes.transpose import transpose_tiles

PIPELINE = "graphopt-cpu"


def _passes() -> list[tvm.transform.Pass]:
    blocks, loops = s_tir.transform, tirx.transform
    return [
        blocks.CanonicalizeLoop(),
        blocks.LowerInitBlock(),
        blocks.PlanAndUpdateBufferAllocationLocation(),
        blocks.ConvertBlocksToOpaque(),
        compact_buffers(),
        blocks.LowerMatchBuffer(),
        blocks.StmtSimplify(),
        blocks.LowerOpaqueBlock(),
        loops.FlattenBuffer(),
        round_to_bfloat16(),
        loops.BF16ComputeLegalize(),
        split_border(),
        peel(),
        transpose_tiles(),
        expand_functions(),
        compare_bits_for_nan(),
        bind_values(),
        loops.VectorizeLoop(True),
        loops.NarrowDataType(32),
        loops.StorageRewrite(),
        keep_locals_on_stack(),
        loops.UnrollLoop(),
        loops.StmtSimplify(),
        loops.RemoveNoOp(),
        restore_exact(),
        unordered_not_equal(),
        hoist_indices(),
        blocks.RewriteUnsafeSelect(),
        loops.FP8ComputeLegalize(),
        loops.VerifyMemory(),
        loops.AnnotateEntryFunc(),
        loops.SplitHostDevice(),
        loops.MakePackedAPI(),
        any_address(),
        loops.FP8StorageLegalize(),
        only_bits(),
    ]


def _pipeline() -> tuple[tvm.transform.Pass, object, object]:
    return tvm.transform.Sequential(_passes()), finalize_host_passes, finalize_device_passes


tirx.register_tir_pipeline(PIPELINE, _pipeline)
