"""The table of operator facts; `graphopt.ir.facts` explains the columns."""

# kind       how elements of the result depend on those of the inputs
# FLOPs      per element of the result (out) or of the first input (in); - if a formula or unknown
# placement  the element types for which an element has the same bits at any position
# then traits, and the roles of inputs
TABLE = """
# operator                kind        FLOPs  placement  traits, roles of inputs

# one element of one input
Abs                       unary       out    any     idempotent nonnegative
Acos                      unary       out    -       0:unit
Acosh                     unary       out    -       0:positive
Asin                      unary       out    -       0:unit
Asinh                     unary       out    -
Atan                      unary       out    -
Atanh                     unary       out    -       0:unit
BitwiseNot                unary       out    any     involution
Cast                      copy        0      any
CastLike                  copy        0      any
Ceil                      unary       out    any     idempotent
Celu                      unary       out    -
Clip                      unary       out    any     cuts-range 2:positive
Cos                       unary       out    -
Cosh                      unary       out    -
Elu                       unary       out    -
Erf                       unary       out    single
Exp                       unary       out    single  nonnegative
Floor                     unary       out    any     idempotent
Gelu                      unary       out    single
HardSigmoid               unary       out    any     nonnegative
HardSwish                 unary       out    any
Identity                  copy        0      any     keeps-scale
IsInf                     unary       out    any     predicate
IsNaN                     unary       out    any     predicate
LeakyRelu                 unary       out    any
Log                       unary       out    -       0:positive
Mish                      unary       out    -
Neg                       unary       out    any     involution
Not                       unary       out    any     involution predicate 0:mask
Reciprocal                unary       out    any     0:nonzero
Relu                      unary       out    any     idempotent nonnegative cuts-range
Round                     unary       out    any     idempotent
Selu                      unary       out    -
Shrink                    unary       out    -
Sigmoid                   unary       out    single  nonnegative
Sign                      unary       out    any     idempotent
Sin                       unary       out    -
Sinh                      unary       out    -
Softplus                  unary       out    -       nonnegative
Softsign                  unary       out    any
Sqrt                      unary       out    any     0:positive
Swish                     unary       out    single
Tan                       unary       out    -
Tanh                      unary       out    single
ThresholdedRelu           unary       out    any

# one element of each input
Add                       broadcast   out    any     commutative joins-scales
And                       broadcast   out    any     commutative predicate
BitShift                  broadcast   out    any     1:unit
BitwiseAnd                broadcast   out    any     commutative
BitwiseOr                 broadcast   out    any     commutative
BitwiseXor                broadcast   out    any     commutative
Div                       broadcast   out    any     1:nonzero
Equal                     broadcast   out    any     commutative predicate 0,1:compared
Greater                   broadcast   out    any     predicate
GreaterOrEqual            broadcast   out    any     predicate
Less                      broadcast   out    any     predicate
LessOrEqual               broadcast   out    any     predicate
Max                       broadcast   out    ints    symmetric trivial variadic
Mean                      broadcast   out    -       symmetric trivial variadic
Min                       broadcast   out    ints    symmetric trivial variadic
Mod                       broadcast   out    -       1:nonzero
Mul                       broadcast   out    any     commutative joins-scales
Or                        broadcast   out    any     commutative predicate
PRelu                     broadcast   out    any
Pow                       broadcast   out    -       0,1:positive
Sub                       broadcast   out    any     joins-scales 1:subtracted
Sum                       broadcast   out    any     symmetric trivial variadic
Where                     broadcast   out    any     0:mask
Xor                       broadcast   out    any     commutative predicate

# the shape of the first input
BatchNormalization        same-shape  2out   -       4:positive
Bernoulli                 same-shape  -      -       random 0:unit
CumProd                   same-shape  -      -       1:shape
CumSum                    same-shape  in     -       1:shape
DequantizeLinear          same-shape  out    -       1:positive
Dropout                   same-shape  out    -       random-in-training
DynamicQuantizeLinear     same-shape  out    -
GroupNormalization        same-shape  7out   -
Hardmax                   same-shape  -      -
InstanceNormalization     same-shape  7out   -
LRN                       same-shape  -      -
LayerNormalization        same-shape  7out   -
LogSoftmax                same-shape  5out   any
LpNormalization           same-shape  3out   -
MeanVarianceNormalization same-shape  5out   -
QuantizeLinear            same-shape  out    -       1:positive
RMSNormalization          same-shape  4out   -
RandomNormalLike          same-shape  -      -       random
RandomUniformLike         same-shape  -      -       random
ReverseSequence           same-shape  0      -       1:length
RotaryEmbedding           same-shape  3out   -
ScatterElements           same-shape  0      -       1:index
ScatterND                 same-shape  0      -       1:index
Softmax                   same-shape  5out   any     nonnegative
TensorScatter             same-shape  0      -       2:shape
Trilu                     same-shape  0      -       1:shape

# the elements of the first input, or of all, in other places
Flatten                   view        0      any     keeps-scale
Reshape                   view        0      any     keeps-scale 1:shape
Squeeze                   view        0      any     keeps-scale 1:shape
Unsqueeze                 view        0      any     keeps-scale 1:shape
CenterCropPad             arrange     0      -       1:shape
Compress                  arrange     0      -       data-sized keeps-scale
Concat                    arrange     0      any     trivial variadic joins-scales
DepthToSpace              arrange     0      -       keeps-scale
Expand                    arrange     0      -       keeps-scale 1:shape
Gather                    arrange     0      -       keeps-scale 1:index
GatherElements            arrange     0      -       keeps-scale 1:index
GatherND                  arrange     0      -       keeps-scale 1:index
Pad                       arrange     0      -       1,3:shape
Slice                     arrange     0      -       keeps-scale 1,2,3,4:shape
SpaceToDepth              arrange     0      -       keeps-scale
Split                     arrange     0      -       keeps-scale 1:shape
Tile                      arrange     0      -       keeps-scale 1:shape
Transpose                 arrange     0      any     keeps-scale

# one element for many
ArgMax                    reduce      in     -
ArgMin                    reduce      in     -
GlobalAveragePool         reduce      in     -       averages
GlobalMaxPool             reduce      in     -
ReduceL1                  reduce      in     -       1:shape
ReduceL2                  reduce      in     -       1:shape
ReduceLogSum              reduce      in     -       1:shape
ReduceLogSumExp           reduce      in     -       1:shape
ReduceMax                 reduce      in     ints    trivial keeps-scale 1:shape
ReduceMean                reduce      in     -       trivial 1:shape
ReduceMin                 reduce      in     ints    trivial keeps-scale 1:shape
ReduceProd                reduce      in     ints    trivial 1:shape
ReduceSum                 reduce      in     ints    trivial 1:shape
ReduceSumSquare           reduce      in     -       1:shape

# everything else
Attention                 other       -      -       6:length
AveragePool               other       -      -       averages
ConcatFromSequence        other       0      -
Constant                  other       0      -
ConstantOfShape           other       0      -       0:shape
DFT                       other       -      -       2:shape
EyeLike                   other       0      -
GRU                       other       -      -       4:length
GridSample                other       -      -       1:unit
If                        other       0      -
LSTM                      other       -      -       4:length
Loop                      other       0      -       0,1:shape
MaxPool                   other       -      -       keeps-scale
Multinomial               other       -      -       random
NegativeLogLikelihoodLoss other       -      -       1:index
NonMaxSuppression         other       -      -       data-sized
NonZero                   other       -      -       data-sized
OneHot                    other       0      -       0:index 1:shape
Optional                  other       0      -
OptionalGetElement        other       0      -
OptionalHasElement        other       0      -
QLinearConv               other       -      -       1,4,6:positive
QLinearMatMul             other       -      -       1,4,6:positive
RNN                       other       -      -       4:length
RandomNormal              other       -      -       random
RandomUniform             other       -      -       random
Range                     other       0      -       0,1,2:shape
Resize                    other       -      -       1,2,3:shape
Scan                      other       0      -
SequenceAt                other       0      -       1:shape
SequenceConstruct         other       0      -
SequenceEmpty             other       0      -
SequenceErase             other       0      -       1:shape
SequenceInsert            other       0      -       2:shape
SequenceLength            other       0      -
Shape                     other       0      -
Size                      other       0      -
SoftmaxCrossEntropyLoss   other       -      -       1:index
SplitToSequence           other       0      -       1:shape
TopK                      other       -      -       1:shape
Unique                    other       0      -       data-sized
Upsample                  other       -      -       1:shape

# outside of ONNX's own domain
com.microsoft::EmbedLayerNormalization  other  -  -  0,1:index 7:mask
graphopt::FromBlocked     other       0      -
graphopt::ToBlocked       other       0      -
"""
