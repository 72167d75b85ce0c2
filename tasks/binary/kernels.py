"""Products of signs, compiled by Numba for x86 processors: bits counted in vectors, or looked up in tables.

A processor that counts the bits of vectors (AVX-512 VPOPCNTDQ) takes 64 signs of an input pixel in one word and eight output
channels at a time. Where the picture ends the input has zero bits; what they count wrongly is known beforehand for each way
in which a window can stick out, so that zero padding is exact.

Where only AVX2 is there, four signs of an input pixel, a nibble, choose one of 16 tables; its entry for the four signs of a weight is their dot
product, −4 to 4. One byte shuffle reads that entry for 32 output channels, which is twice as fast as counting bits where
no instruction counts those of a vector. A table of zeros stands where the picture ends, so that zero padding is exact;
a last group of fewer than four channels has tables of its own.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

GROUP, WORD = 4, 64  # channels a table, channels a word
LANES, VECTORS, PIXELS = 32, 2, 6  # a tile of 64 output channels by 6 pixels keeps its 12 sums in registers
OUTPUTS = LANES * VECTORS
STEPS = (31, 63)  # look-ups of −4 … 4, and of −2 … 2, whose sum fits into a signed byte
LARGEST = 2**15 - 1  # terms of a sum, which is kept in 16 bits
ZEROS = 32  # number of the table of zeros, after 16 for full groups and 16 for a last one

COUNTED = 32  # outputs of a tile that are counted at once: 4 vectors by 6 pixels

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


@intrinsic
def _sixty_four_signs(typing, values, at):
    """The same of 64."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        vector = ir.VectorType(ir.FloatType(), WORD)
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        signs = builder.fcmp_ordered(">=", builder.load(place, align=4), ir.Constant(vector, [0.0] * WORD))
        return builder.bitcast(signs, word)

    return types.uint64(values, types.int64), generate


@_compile
def words_of(x, padding):
    """The signs of x (N, H, W, C) float32, bit 1 for ≥ 0: (N, H + 2p, W + 2p, ⌈C/64⌉) uint64, zeros around it."""
    batch, height, width, channels = x.shape
    rows, columns, count = height + 2 * padding, width + 2 * padding, -(-channels // WORD)
    words = np.zeros((batch, rows, columns, count), np.uint64)
    values, out = x.reshape(-1), words.reshape(-1)
    for n in range(batch):
        for y in range(height):
            at = (n * height + y) * width * channels
            to = ((n * rows + y + padding) * columns + padding) * count
            for _ in range(width):
                for _ in range(channels // WORD):
                    out[to] = _sixty_four_signs(values, at)
                    at, to = at + WORD, to + 1
                left = channels % WORD
                if left:
                    bits = np.uint64(0)
                    for k in range(left):
                        bits |= np.uint64(values[at + k] >= 0) << np.uint64(k)
                    out[to] = bits
                    at, to = at + left, to + 1
    return words


@intrinsic
def _count(typing, inputs, starts, first, offsets, weights, place, levels, kinds, channel, sums, column):
    """``sums`` (PIXELS, OUTPUTS) int16 from ``column`` on: level − 2 · the bits in which input and weight differ, of COUNTED channels.

    inputs: uint64 words of signs; those of pixel p are at starts[first + p] + each of the ``offsets``. weights: uint64,
    OUTPUTS words a step, from ``place`` on. levels: int16; that of pixel p's first channel is at kinds[first + p] + channel.
    """

    def generate(context, builder, signature, arguments):
        arrays = [
            context.make_array(t)(context, builder, v) if isinstance(t, types.Array) else None
            for t, v in zip(signature.args, arguments)
        ]
        counts, narrow = ir.VectorType(word, 8), ir.VectorType(short, 8)
        count_bits = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(counts, [counts]), "llvm.ctpop.v8i64"
        )
        first, place, channel, column = (arguments[i] for i in (2, 5, 8, 10))
        steps = cgutils.unpack_tuple(builder, arrays[3].shape)[0]
        numbers = range(PIXELS)

        def entry(array, p):
            return builder.load(builder.gep(array.data, [builder.add(first, ir.Constant(word, p))]))

        def vector_at(data, index, kind):
            return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())

        pixels = [builder.gep(arrays[0].data, [entry(arrays[1], p)]) for p in numbers]
        before = builder.block
        loop, after = builder.append_basic_block("step"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(word)
        step.add_incoming(ir.Constant(word, 0), before)
        vectors = COUNTED // 8
        totals = [builder.phi(counts) for _ in range(PIXELS * vectors)]
        offset = builder.load(builder.gep(arrays[3].data, [step]))
        here = builder.add(place, builder.mul(step, ir.Constant(word, OUTPUTS)))
        weight = [
            builder.load(
                vector_at(arrays[4].data, builder.add(here, ir.Constant(word, 8 * v)), counts), align=8
            )
            for v in range(vectors)
        ]
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0] * 8)
        added = []
        for p in numbers:
            value = builder.load(builder.gep(pixels[p], [offset]))
            one = builder.insert_element(ir.Constant(counts, ir.Undefined), value, ir.Constant(word, 0))
            eight = builder.shuffle_vector(one, ir.Constant(counts, ir.Undefined), zeros)
            for v in range(vectors):
                differ = builder.call(count_bits, [builder.xor(eight, weight[v])])
                added.append(builder.add(totals[p * vectors + v], differ))
        following = builder.add(step, ir.Constant(word, 1))
        step.add_incoming(following, loop)
        for total, new in zip(totals, added, strict=True):
            total.add_incoming(ir.Constant(counts, None), before)
            total.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", following, steps), loop, after)
        builder.position_at_end(after)
        for p in numbers:
            level = builder.add(entry(arrays[7], p), channel)
            for v in range(vectors):
                twice = builder.shl(
                    builder.trunc(added[p * vectors + v], narrow), ir.Constant(narrow, [1] * 8)
                )
                at = builder.add(level, ir.Constant(word, 8 * v))
                full = builder.load(vector_at(arrays[6].data, at, narrow), align=2)
                to = builder.add(column, ir.Constant(word, p * OUTPUTS + 8 * v))
                builder.store(builder.sub(full, twice), vector_at(arrays[9].data, to, narrow), align=2)
        return context.get_dummy_value()

    n = types.int64
    return types.void(inputs, starts, n, offsets, weights, n, levels, kinds, n, sums, n), generate


@_compile
def _kinds(x, padding, kernel, outputs, stride, out):
    """For each output pixel the place in the levels of how far its window sticks out of x: above, below, left and right."""
    height, width = x.shape[1], x.shape[2]
    batch, rows, columns, _ = out.shape
    kinds = np.empty(batch * rows * columns + PIXELS, np.int64)
    ways, at = padding + 1, 0
    for _ in range(batch):
        for i in range(rows):
            above = max(0, padding - i * stride)
            row = above * ways + max(0, i * stride - padding + kernel - height)
            for j in range(columns):
                left = max(0, padding - j * stride)
                column = left * ways + max(0, j * stride - padding + kernel - width)
                kinds[at] = (row * ways * ways + column) * outputs
                at += 1
    kinds[at:] = kinds[at - 1]
    return kinds


@_compile
def _offsets(words, kernel):
    """Where the words of a window are, from its first on."""
    columns, count = words.shape[2], words.shape[3]
    offsets = np.empty(kernel * kernel * count, np.int64)
    for i in range(kernel):
        for k in range(kernel * count):
            offsets[i * kernel * count + k] = i * columns * count + k
    return offsets


def _prepare(x, padding, weights, plan, stride, out):
    """What the tiles of one convolution share. In compiled code alone: the type of ``weights`` says which way it goes."""
    raise NotImplementedError


@overload(_prepare)
def _prepare_for(x, padding, weights, plan, stride, out):
    def looked_up(x, padding, weights, plan, stride, out):
        numbers = numbers_of(x, padding)
        return numbers, _starts(numbers, stride, out)

    def counted(x, padding, weights, plan, stride, out):
        words, (tiles, kernel, _, outputs) = words_of(x, padding), weights.shape
        kinds = _kinds(x, padding, kernel, tiles * outputs, stride, out)
        return words, _starts(words, stride, out), kinds, _offsets(words, kernel)

    return looked_up if weights.dtype == types.uint8 else counted


def _tile(prepared, weights, plan, tile, begin, valid, sums):
    """Sums of products of PIXELS pixels from ``begin`` and ``valid`` channels of a tile into ``sums`` (PIXELS, OUTPUTS) int16."""
    raise NotImplementedError


@overload(_tile)
def _tile_for(prepared, weights, plan, tile, begin, valid, sums):
    def looked_up(prepared, weights, plan, tile, begin, valid, sums):
        numbers, starts = prepared
        tables, longest = plan
        _, kernel, run, _ = weights.shape
        next_row = numbers.shape[2] * numbers.shape[3]
        sums[:] = 0
        for row in range(kernel):
            base = (tile * kernel + row) * run
            for done in range(0, run, longest):
                steps, place = min(longest, run - done), (base + done) * OUTPUTS
                _look_up(tables, numbers, starts, begin, row * next_row + done, weights, place, steps, sums)

    def counted(prepared, weights, plan, tile, begin, valid, sums):
        words, starts, kinds, offsets = prepared
        levels, _ = plan
        for half in range(0, valid, COUNTED):
            place, channel = tile * offsets.size * OUTPUTS + half, tile * OUTPUTS + half
            _count(words, starts, begin, offsets, weights, place, levels, kinds, channel, sums, half)

    return looked_up if weights.dtype == types.uint8 else counted


@_compile
def convolve(x, padding, weights, plan, stride, alpha, out):
    """out (N, H', W', K) float32 = α of each channel · the sums for x (N, H, W, C) float32 and weights, from :func:`packed`."""
    prepared = _prepare(x, padding, weights, plan, stride, out)
    sums = np.empty((PIXELS, OUTPUTS), np.int16)
    channels, pixels = out.shape[3], out.size // out.shape[3]
    result = out.reshape(-1)
    for tile in range(weights.shape[0]):
        first = tile * OUTPUTS
        valid = min(OUTPUTS, channels - first)
        a = alpha[first : first + valid]
        for begin in range(0, pixels, PIXELS):
            _tile(prepared, weights, plan, tile, begin, valid, sums)
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
def convolve_unit(x, padding, weights, plan, stride, alpha, scale, shift, slope, fused, shortcut, out):
    """The same, then BatchNorm as scale and shift, plus ``shortcut`` (shaped as out), then PReLU.

    fused: whether BatchNorm rounds once (multiply-add) or twice, as torch's own does on the processor.
    """
    prepared = _prepare(x, padding, weights, plan, stride, out)
    sums = np.empty((PIXELS, OUTPUTS), np.int16)
    channels, pixels = out.shape[3], out.size // out.shape[3]
    for tile in range(weights.shape[0]):
        first = tile * OUTPUTS
        valid = min(OUTPUTS, channels - first)
        for begin in range(0, pixels, PIXELS):
            _tile(prepared, weights, plan, tile, begin, valid, sums)
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


@functools.cache
def counts_bits() -> bool:
    """Whether this processor counts the bits of vectors."""
    features = get_host_cpu_features()
    return all(features.get(name) for name in ("avx512f", "avx512bw", "avx512vl", "avx512vpopcntdq"))


def packed(weight: np.ndarray, padding: int, counting: bool | None = None) -> tuple[np.ndarray, tuple, int]:
    """Real weights (K, C, R, R) as the kernels read them, what they need beside, and what their sums are to be multiplied by.

    counting: by counting bits (None: where this processor does), else by tables.
    """
    if counts_bits() if counting is None else counting:
        return weight_words(weight), (weight_levels(weight, padding), 0), 1
    tables, factor = look_up_tables(weight.shape[1])
    return weight_nibbles(weight), (tables, STEPS[factor - 1]), factor


def weight_words(weight: np.ndarray) -> np.ndarray:
    """Signs of real weights (K, C, R, R), bit 1 for ≥ 0: (⌈K/64⌉, R, R·⌈C/64⌉, 64) uint64."""
    outputs, channels, kernel, _ = weight.shape
    count, tiles = -(-channels // WORD), -(-outputs // OUTPUTS)
    bits = np.zeros((tiles * OUTPUTS, kernel, kernel, count * WORD), np.uint8)
    bits[:outputs, :, :, :channels] = (weight >= 0).transpose(0, 2, 3, 1)
    words = np.packbits(bits, axis=-1, bitorder="little").view("<u8")
    words = words.reshape(tiles, OUTPUTS, kernel, kernel * count).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(words, np.uint64)


def weight_levels(weight: np.ndarray, padding: int) -> np.ndarray:
    """((p + 1)⁴ · ⌈K/64⌉ · 64,) int16: what is left when twice the differing bits of a whole window are taken away.

    For each number of rows above and below and of columns left and right that lie outside of the picture, in that order: the
    number of terms inside, and twice the ones of the weights outside, where the input's bits are zeros. Modulo 2¹⁶,
    which the sums themselves fit into.
    """
    outputs, channels, kernel, _ = weight.shape
    ones = (weight >= 0).sum(1)  # (K, R, R)
    ways = range(padding + 1)
    levels = np.zeros((len(ways) ** 4, -(-outputs // OUTPUTS) * OUTPUTS), np.int64)
    for n, (above, below, left, right) in enumerate(itertools.product(ways, repeat=4)):
        inside = np.zeros((kernel, kernel), bool)
        inside[above : max(kernel - below, above), left : max(kernel - right, left)] = True
        levels[n, :outputs] = channels * inside.sum() + 2 * ones[:, ~inside].sum(1)
    return levels.astype(np.uint64).astype(np.uint16).view(np.int16).ravel()


def weight_nibbles(weight: np.ndarray) -> np.ndarray:
    """Real weights (K, C, R, R) → the nibbles of their signs as the kernels read them, (⌈K/64⌉, R, R·⌈C/4⌉, 64) uint8."""
    outputs, channels, kernel, _ = weight.shape
    groups, tiles = -(-channels // GROUP), -(-outputs // OUTPUTS)
    bits = np.zeros((tiles * OUTPUTS, groups * GROUP, kernel, kernel), np.uint8)
    bits[:outputs, :channels] = weight >= 0
    bits = bits.reshape(tiles, OUTPUTS, groups, GROUP, kernel, kernel)
    nibbles = sum(bits[:, :, :, k] << k for k in range(GROUP))
    return np.ascontiguousarray(nibbles.transpose(0, 3, 4, 2, 1)).reshape(tiles, kernel, -1, OUTPUTS)
