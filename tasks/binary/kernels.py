"""Products of signs by table look-up, compiled by Numba for x86 processors with AVX2.

Four signs of an input pixel, a nibble, choose one of 16 tables; its entry for the four signs of a weight is their dot
product, −4 to 4. One byte shuffle reads that entry for 32 output channels, which is twice as fast as counting bits where
no instruction counts those of a vector. A table of zeros stands where the picture ends, so that zero padding is exact;
a last group of fewer than four channels has tables of its own.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

GROUP = 4  # channels a table
LANES, VECTORS, PIXELS = 32, 2, 6  # a tile of 64 output channels by 6 pixels keeps its 12 sums in registers
OUTPUTS = LANES * VECTORS
STEPS = (31, 63)  # look-ups of −4 … 4, and of −2 … 2, whose sum fits into a signed byte
LARGEST = 2**15 - 1  # terms of a sum, which is kept in 16 bits
ZEROS = 32  # number of the table of zeros, after 16 for full groups and 16 for a last one

byte, short, word = ir.IntType(8), ir.IntType(16), ir.IntType(64)


def _compile(function):
    """njit whose result is kept on disk, where there is a place to keep it. Float operations stay as they are written."""
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no folder can be written
        return njit(nogil=True)(function)


def look_up_tables(channels: int) -> tuple[np.ndarray, int]:
    """(33, 16) int8 [signs of the input, signs of the weight] → dot product ÷ factor, and that factor; bit 1 is +1.

    With an even number of channels every dot product is even, and half of it in the table makes longer runs fit a byte.
    """
    rest, factor = channels % GROUP, 2 - channels % 2
    signs = 2 * (np.arange(16)[:, None] >> np.arange(GROUP) & 1) - 1
    parts = [signs @ signs.T, signs[:, :rest] @ signs[:, :rest].T, np.zeros((1, 16), int)]
    return (np.concatenate(parts) // factor).astype(np.int8), factor


@intrinsic
def _look_up(typing, tables, inputs, starts, first, shift, weights, offset, steps, sums):
    """Adds to ``sums`` (PIXELS, OUTPUTS) int16 the entries of ``steps`` tables for each pixel and output channel.

    inputs: uint16, 16 · number of the table of each group of channels; those of pixel p begin at starts[first + p] + shift.
    weights: uint8, OUTPUTS nibbles a group, beginning at ``offset``. In vectors, which Python code does not reach.
    """

    def generate(context, builder, signature, arguments):
        def data(i, pointee):
            array = context.make_array(signature.args[i])(context, builder, arguments[i])
            return builder.bitcast(array.data, pointee.as_pointer())

        vector, wide, entries = (
            ir.VectorType(byte, LANES),
            ir.VectorType(short, LANES),
            ir.VectorType(byte, 16),
        )
        shuffle = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector, vector]), "llvm.x86.avx2.pshuf.b"
        )
        both_halves = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [*range(16)] * 2)
        first, shift, offset, steps = (arguments[i] for i in (3, 4, 6, 7))
        table, numbers, sums = data(0, byte), data(1, short), data(8, short)
        start = builder.gep(data(2, word), [first])
        nibbles = builder.gep(data(5, byte), [offset])
        pixels = [
            builder.gep(
                numbers, [builder.add(builder.load(builder.gep(start, [ir.Constant(word, p)])), shift)]
            )
            for p in range(PIXELS)
        ]
        before = builder.block
        loop, after = builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(word)
        step.add_incoming(ir.Constant(word, 0), before)
        totals = [builder.phi(vector) for _ in range(PIXELS * VECTORS)]
        here = builder.gep(nibbles, [builder.mul(step, ir.Constant(word, OUTPUTS))])
        weight = [
            builder.load(
                builder.bitcast(builder.gep(here, [ir.Constant(word, LANES * v)]), vector.as_pointer()),
                align=1,
            )
            for v in range(VECTORS)
        ]
        added = []
        for p in range(PIXELS):
            number = builder.zext(builder.load(builder.gep(pixels[p], [step])), word)
            sixteen = builder.load(
                builder.bitcast(builder.gep(table, [number]), entries.as_pointer()), align=1
            )
            twice = builder.shuffle_vector(sixteen, ir.Constant(entries, ir.Undefined), both_halves)
            for v in range(VECTORS):
                added.append(builder.add(totals[p * VECTORS + v], builder.call(shuffle, [twice, weight[v]])))
        following = builder.add(step, ir.Constant(word, 1))
        step.add_incoming(following, loop)
        for total, new in zip(totals, added, strict=True):
            total.add_incoming(ir.Constant(vector, None), before)
            total.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
        builder.position_at_end(after)
        for i, new in enumerate(added):
            place = builder.bitcast(builder.gep(sums, [ir.Constant(word, i * LANES)]), wide.as_pointer())
            builder.store(builder.add(builder.load(place, align=2), builder.sext(new, wide)), place, align=2)
        return context.get_dummy_value()

    n = types.int64
    return types.void(tables, inputs, starts, n, n, weights, n, n, sums), generate


@intrinsic
def _eight_signs(typing, values, at):
    """Which of eight float32 from values[at] are ≥ 0, a bit each; the first one's is the lowest."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        vector = ir.VectorType(ir.FloatType(), 8)
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        signs = builder.fcmp_ordered(">=", builder.load(place, align=4), ir.Constant(vector, [0.0] * 8))
        return builder.zext(builder.bitcast(signs, byte), word)

    return types.int64(values, types.int64), generate


@_compile
def numbers_of(x, padding):
    """16 · number of the table for the signs of x (N, H, W, C) float32: (N, H + 2p, W + 2p, ⌈C/4⌉) uint16."""
    batch, height, width, channels = x.shape
    rows, columns, groups = height + 2 * padding, width + 2 * padding, -(-channels // GROUP)
    numbers = np.empty((batch, rows, columns, groups), np.uint16)
    values, out = x.reshape(-1), numbers.reshape(-1)
    for n in range(batch):
        for i in range(rows):
            for j in range(columns):
                to = ((n * rows + i) * columns + j) * groups
                y, z = i - padding, j - padding
                if not (0 <= y < height and 0 <= z < width):
                    out[to : to + groups] = 16 * ZEROS
                    continue
                at = ((n * height + y) * width + z) * channels
                for _ in range(channels // 8):
                    signs = _eight_signs(values, at)
                    out[to] = signs << 4 & 0xF0
                    out[to + 1] = signs & 0xF0
                    at, to = at + 8, to + 2
                left = channels % 8
                while left > 0:
                    number = 0 if left >= GROUP else 16
                    for k in range(min(left, GROUP)):
                        number += (values[at + k] >= 0) << k
                    out[to] = 16 * number
                    at, to, left = at + GROUP, to + 1, left - GROUP
    return numbers


@_compile
def _starts(numbers, stride, out):
    """Where the window of each output pixel begins in ``numbers``; the last one again for the rest of a tile."""
    _, rows, columns, groups = numbers.shape
    batch, height, width, _ = out.shape
    starts = np.empty(batch * height * width + PIXELS, np.int64)
    at = 0
    for n in range(batch):
        for i in range(height):
            row = (n * rows + i * stride) * columns
            for j in range(width):
                starts[at] = (row + j * stride) * groups
                at += 1
    starts[at:] = starts[at - 1]
    return starts


@_compile
def _tile(numbers, weights, tables, longest, tile, starts, begin, sums):
    """Sums of table entries of PIXELS pixels and OUTPUTS channels into ``sums``; weights (tiles, kernel, steps a row, OUTPUTS)."""
    _, kernel, run, _ = weights.shape
    next_row = numbers.shape[2] * numbers.shape[3]
    sums[:] = 0
    for row in range(kernel):
        base = (tile * kernel + row) * run
        for done in range(0, run, longest):
            steps = min(longest, run - done)
            _look_up(
                tables,
                numbers,
                starts,
                begin,
                row * next_row + done,
                weights,
                (base + done) * OUTPUTS,
                steps,
                sums,
            )


@_compile
def convolve(x, padding, weights, tables, longest, stride, alpha, out):
    """out (N, H', W', K) float32 = α of each channel · the sums of table entries for x (N, H, W, C) float32 and weights."""
    numbers = numbers_of(x, padding)
    starts = _starts(numbers, stride, out)
    sums = np.empty((PIXELS, OUTPUTS), np.int16)
    channels, pixels = out.shape[3], starts.size - PIXELS
    result = out.reshape(-1)
    for tile in range(weights.shape[0]):
        first = tile * OUTPUTS
        valid = min(OUTPUTS, channels - first)
        a = alpha[first : first + valid]
        for begin in range(0, pixels, PIXELS):
            _tile(numbers, weights, tables, longest, tile, starts, begin, sums)
            for p in range(min(PIXELS, pixels - begin)):
                at = (begin + p) * channels + first
                to, total = result[at : at + valid], sums[p]
                for k in range(valid):
                    to[k] = np.float32(total[k]) * a[k]


@intrinsic
def _finish(typing, width, sums, total, alpha, scale, shift, slope, fused, channel, shortcut, out, at):
    """Behind the convolution, for ``width`` (a literal) channels from ``channel`` of the pixel whose output is at out[at].

    In vectors by hand: a compiler that does not know that the arrays are apart makes each pixel check it.
    """
    if not isinstance(width, types.IntegerLiteral):
        return None
    lanes = width.literal_value

    def generate(context, builder, signature, arguments):
        def place(i, at, kind):
            array = context.make_array(signature.args[i])(context, builder, arguments[i])
            return builder.bitcast(builder.gep(array.data, [at]), ir.VectorType(kind, lanes).as_pointer())

        real, channel, at = ir.FloatType(), arguments[8], arguments[11]
        vector = ir.VectorType(real, lanes)
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f32"
        )
        value = builder.sitofp(builder.load(place(1, arguments[2], short), align=2), vector)
        a, b, c, d = (builder.load(place(i, channel, real), align=4) for i in (3, 4, 5, 6))
        value = builder.fmul(value, a)
        twice = builder.fadd(builder.fmul(value, b), c)
        value = builder.select(arguments[7], builder.call(fma, [value, b, c]), twice)
        value = builder.fadd(value, builder.load(place(9, at, real), align=4))
        positive = builder.fcmp_ordered(">", value, ir.Constant(vector, [0.0] * lanes))
        value = builder.select(positive, value, builder.fmul(value, d))
        builder.store(value, place(10, at, real), align=4)
        return context.get_dummy_value()

    n = types.int64
    return (
        types.void(width, sums, n, alpha, scale, shift, slope, types.boolean, n, shortcut, out, n),
        generate,
    )


@_compile
def convolve_unit(
    x, padding, weights, tables, longest, stride, alpha, scale, shift, slope, fused, shortcut, out
):
    """The same, then BatchNorm as scale and shift, plus ``shortcut`` (shaped as out), then PReLU.

    fused: whether BatchNorm rounds once (multiply-add) or twice, as torch's own does on the processor.
    """
    numbers = numbers_of(x, padding)
    starts = _starts(numbers, stride, out)
    sums = np.empty((PIXELS, OUTPUTS), np.int16)
    channels, pixels = out.shape[3], starts.size - PIXELS
    for tile in range(weights.shape[0]):
        first = tile * OUTPUTS
        valid = min(OUTPUTS, channels - first)
        for begin in range(0, pixels, PIXELS):
            _tile(numbers, weights, tables, longest, tile, starts, begin, sums)
            for p in range(min(PIXELS, pixels - begin)):
                at, total = (begin + p) * channels + first, p * OUTPUTS
                for k in range(0, valid - 7, 8):
                    _finish(
                        8,
                        sums,
                        total + k,
                        alpha,
                        scale,
                        shift,
                        slope,
                        fused,
                        first + k,
                        shortcut,
                        out,
                        at + k,
                    )
                for k in range(valid - valid % 8, valid):
                    _finish(
                        1,
                        sums,
                        total + k,
                        alpha,
                        scale,
                        shift,
                        slope,
                        fused,
                        first + k,
                        shortcut,
                        out,
                        at + k,
                    )


@intrinsic
def _multiply_add(typing, x, y, z):
    """x · y + z of float32, rounded once."""

    def generate(context, builder, signature, arguments):
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def _larger(typing, x, y):
    """x where x > y, else y: without a branch, which would keep the loop around it from becoming vectors."""

    def generate(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return types.float32(types.float32, types.float32), generate


@_compile
def pool_stem(x, scale, shift, fused, out):
    """BatchNorm as scale and shift, ReLU, then the maximum of each 3×3 window at stride 2 with padding 1.

    x (N, H, W, C) float32 → out (N, ⌈H/2⌉, ⌈W/2⌉, C). Columns first, so that each loop is as long as a row.
    """
    batch, height, width, channels = x.shape
    _, rows, columns, _ = out.shape
    scales, shifts = np.empty(width * channels, np.float32), np.empty(width * channels, np.float32)
    for j in range(width):
        scales[j * channels : (j + 1) * channels] = scale
        shifts[j * channels : (j + 1) * channels] = shift
    high = np.empty(width * channels, np.float32)
    for n in range(batch):
        for i in range(rows):
            # beyond the border a row of the window itself stands a second time, which changes no maximum
            above, row, below = x[n, max(2 * i - 1, 0)], x[n, 2 * i], x[n, min(2 * i + 1, height - 1)]
            u, v, w = above.reshape(-1), row.reshape(-1), below.reshape(-1)
            if fused:
                for k in range(width * channels):
                    a, b = (
                        _multiply_add(u[k], scales[k], shifts[k]),
                        _multiply_add(v[k], scales[k], shifts[k]),
                    )
                    c = _multiply_add(w[k], scales[k], shifts[k])
                    high[k] = _larger(_larger(a, b), _larger(c, np.float32(0)))
            else:
                for k in range(width * channels):
                    a, b = u[k] * scales[k] + shifts[k], v[k] * scales[k] + shifts[k]
                    c = w[k] * scales[k] + shifts[k]
                    high[k] = _larger(_larger(a, b), _larger(c, np.float32(0)))
            for j in range(columns):
                left, right = channels * max(2 * j - 1, 0), channels * min(2 * j + 1, width - 1)
                u, v, w = high[left:], high[channels * 2 * j :], high[right:]
                best = out[n, i, j]
                for k in range(channels):
                    best[k] = _larger(_larger(u[k], v[k]), w[k])


def weight_nibbles(weight: np.ndarray) -> np.ndarray:
    """Real weights (K, C, R, R) → the nibbles of their signs as the kernels read them, (⌈K/64⌉, R, R·⌈C/4⌉, 64) uint8."""
    outputs, channels, kernel, _ = weight.shape
    groups, tiles = -(-channels // GROUP), -(-outputs // OUTPUTS)
    bits = np.zeros((tiles * OUTPUTS, groups * GROUP, kernel, kernel), np.uint8)
    bits[:outputs, :channels] = weight >= 0
    bits = bits.reshape(tiles, OUTPUTS, groups, GROUP, kernel, kernel)
    nibbles = sum(bits[:, :, :, k] << k for k in range(GROUP))
    return np.ascontiguousarray(nibbles.transpose(0, 3, 4, 2, 1)).reshape(tiles, kernel, -1, OUTPUTS)
