"""What a surface looks like: materials, paint on the skin, eyes, and light, as warp functions."""

import warp as wp

wp.config.log_level = wp.LOG_WARNING

SKIN, EYE, TEETH, TONGUE, LASH, HAND, HAIR, CLOTH, FRAME, LENS, HAT, THING = (
    wp.constant(i) for i in range(12)
)
TILE = wp.constant(256)


@wp.struct
class Look:
    """Drawn appearance that a sample's colour depends on; colours are linear RGB in 0-1."""

    key_dir: wp.vec3
    key: wp.vec3
    fill_dir: wp.vec3
    fill: wp.vec3
    rim_dir: wp.vec3
    rim: wp.vec3
    sky: wp.vec3
    ground: wp.vec3
    lip: wp.vec3
    brow: wp.vec3
    hair: wp.vec3
    beard: wp.vec3
    iris: wp.vec3
    sclera: wp.vec3
    liner: wp.vec3
    offset: wp.vec2
    gloss: float
    lip_strength: float
    lip_gloss: float
    mottle: float
    liner_width: float
    liner_strength: float
    shadow_eye: float
    brow_inner: float
    brow_outer: float
    brow_height: float
    brow_arch: float
    brow_drop: float
    brow_thick: float
    brow_density: float
    pupil: float
    shadow_strength: float
    wrinkle: float
    lens_tint: wp.vec3
    lens_glare: float


@wp.func
def noise(tile: wp.array2d(dtype=float), u: float, v: float) -> float:
    """Bilinear lookup in the repeating noise tile; u and v in cells."""
    fu = wp.floor(u)
    fv = wp.floor(v)
    a = u - fu
    b = v - fv
    i = int(fu) & (TILE - 1)
    j = int(fv) & (TILE - 1)
    k = (i + 1) & (TILE - 1)
    m = (j + 1) & (TILE - 1)
    top = tile[j, i] * (1.0 - a) + tile[j, k] * a
    low = tile[m, i] * (1.0 - a) + tile[m, k] * a
    return top * (1.0 - b) + low * b


@wp.func
def step(low: float, high: float, x: float) -> float:
    t = wp.clamp((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


@wp.func
def mix(a: wp.vec3, b: wp.vec3, t: float) -> wp.vec3:
    return a * (1.0 - t) + b * t


@wp.func
def unrolled(p: wp.vec3) -> float:
    """Length (dm) round the head from the middle of the face, so that patterns on it keep their scale on its sides."""
    return wp.atan2(p[0], p[2] - 0.3)


@wp.func
def brow_mask(p: wp.vec3, look: Look, tile: wp.array2d(dtype=float)) -> float:
    """How much brow hair covers template position p (0-1)."""
    ax = wp.abs(p[0])
    s = (ax - look.brow_inner) / (look.brow_outer - look.brow_inner)
    if s < -0.15 or s > 1.15 or p[2] < 0.6:
        return 0.0
    rise = look.brow_arch * (1.0 - (s - 0.62) * (s - 0.62) / 0.3844)
    fall = look.brow_drop * wp.max(s - 0.62, 0.0) * wp.max(s - 0.62, 0.0) / 0.1444
    centre = look.brow_height + rise - fall
    half = look.brow_thick * (1.0 - 0.62 * step(0.45, 1.05, s)) * (0.82 + 0.18 * step(-0.1, 0.2, s))
    d = (p[1] - centre) / half
    if wp.abs(d) > 1.8:
        return 0.0
    strand = noise(tile, s * 46.0 + d * (5.0 - 3.0 * s) + look.offset[0], d * 2.2 + look.offset[1])
    edge = wp.abs(d) + 0.55 * (strand - 0.5)
    ends = step(-0.06, 0.1, s) * (1.0 - step(0.9, 1.06, s))
    return (1.0 - step(0.62, 1.12, edge)) * ends * (0.55 + 0.45 * step(0.2, 0.7, strand + 0.25))


@wp.func
def eye_colour(p: wp.vec3, look: Look, tile: wp.array2d(dtype=float)) -> wp.vec3:
    """Albedo of the eyeball; p is the unit position in the eye's own frame (z to the pupil)."""
    r = wp.sqrt(p[0] * p[0] + p[1] * p[1])
    if p[2] < 0.0:
        r = 2.0 - r
    angle = wp.atan2(p[1], p[0])
    streak = noise(tile, angle * 9.0 + 40.0, r * 12.0 + look.offset[1])
    iris = look.iris * (0.6 + 0.8 * streak) * (1.0 - 0.55 * step(0.34, 0.43, r))
    white = mix(look.sclera, wp.vec3(0.55, 0.28, 0.24), 0.45 * step(0.55, 1.1, r))
    colour = mix(iris, white, step(0.405, 0.455, r))
    return colour * step(look.pupil - 0.02, look.pupil + 0.03, r) + wp.vec3(0.004, 0.004, 0.004)


@wp.func
def skin_colour(
    base: wp.vec3, p: wp.vec3, aux: wp.vec4, look: Look, tile: wp.array2d(dtype=float), fine: float
) -> wp.vec3:
    """Albedo of the skin with its paint: blotches, lips, brows, lid line, eye shadow, stubble; aux = lip, lid, beard, scalp."""
    around = unrolled(p)
    blotch = noise(tile, around * 8.0 + look.offset[0], p[1] * 9.0 + look.offset[1]) - 0.5
    colour = base * (1.0 + look.mottle * (blotch + 0.7 * (fine - 0.5)))
    if look.wrinkle > 0.0 and p[1] > 7.55:
        line = noise(tile, p[0] * 5.0 + look.offset[1], p[1] * 26.0 + look.offset[0])
        colour = colour * (1.0 - look.wrinkle * step(0.55, 0.8, line) * step(7.55, 7.7, p[1]))
    lips = step(-0.012, 0.010, aux[0])
    if lips > 0.0:
        cell = noise(tile, p[0] * 60.0 + look.offset[0], p[1] * 8.0)
        colour = mix(colour, look.lip * (0.85 + 0.3 * cell), lips * look.lip_strength)
    if aux[1] < 0.2:
        line = wp.exp(-aux[1] * aux[1] / (look.liner_width * look.liner_width))
        colour = mix(colour, look.liner, line * look.liner_strength)
        shade = wp.exp(-aux[1] * aux[1] / 0.006) * look.shadow_eye
        colour = mix(colour, look.liner, shade * 0.6)
    if aux[2] > 0.0:
        hairs = noise(tile, around * 80.0 + look.offset[1], p[1] * 45.0 + look.offset[0])
        cover = step(0.0, 1.0, aux[2] * (0.55 + 0.9 * hairs))
        colour = mix(colour, look.beard * (0.6 + 0.8 * fine), cover * wp.min(1.0, aux[2] * 1.6))
    if aux[3] > 0.0:
        hairs = noise(tile, around * 30.0 + look.offset[1], (p[1] + p[2]) * 14.0 + look.offset[0])
        cover = step(0.25, 0.75, aux[3] * (0.6 + 0.8 * hairs))
        colour = mix(colour, look.hair * (0.6 + 0.8 * fine), cover)
    brow = brow_mask(p, look, tile)
    return mix(colour, look.brow, brow * look.brow_density)


@wp.func
def surface(
    mat: int, base: wp.vec3, p: wp.vec3, aux: wp.vec4, look: Look, tile: wp.array2d(dtype=float)
) -> wp.vec3:
    """Albedo of a material at painting position p."""
    fine = noise(tile, unrolled(p) * 38.0 + look.offset[1], p[1] * 38.0 + look.offset[0])
    if mat == SKIN:
        return skin_colour(base, p, aux, look, tile, fine)
    if mat == HAND:
        return base * (0.9 + 0.2 * fine)
    if mat == EYE:
        return eye_colour(wp.normalize(p), look, tile) * (1.0 - 0.45 * step(0.0, 0.75, p[1]))
    if mat == HAIR:
        strand = noise(tile, aux[0], aux[1]) * 0.65 + 0.35 * noise(tile, aux[0] * 3.1 + 9.0, aux[1] * 1.3)
        return base * (0.25 + 1.5 * strand)
    if mat == CLOTH or mat == HAT or mat == THING:
        return base * (0.85 + 0.3 * noise(tile, aux[0], aux[1]))
    if mat == LENS:
        glare = noise(tile, p[0] * 3.0 + look.offset[0], p[1] * 1.5 + look.offset[1])
        return look.lens_tint + wp.vec3(1.0, 1.0, 1.0) * look.lens_glare * step(0.45, 0.75, glare)
    return base


@wp.func
def finish(mat: int, aux: wp.vec4, look: Look) -> wp.vec2:
    """Strength and exponent of a material's highlight."""
    if mat == SKIN:
        lips = step(-0.01, 0.01, aux[0])
        bare = 1.0 - wp.min(1.0, aux[2] + aux[3])
        return wp.vec2((look.gloss + look.lip_gloss * lips) * bare, 14.0 + 20.0 * lips)
    if mat == EYE:
        return wp.vec2(1.1, 120.0)
    if mat == TEETH:
        return wp.vec2(0.25, 30.0)
    if mat == HAIR:
        return wp.vec2(0.5 * aux[2], 10.0)
    if mat == FRAME:
        return wp.vec2(0.5, 40.0)
    if mat == LENS:
        return wp.vec2(0.6, 60.0)
    if mat == CLOTH or mat == HAT or mat == THING:
        return wp.vec2(aux[2], 14.0)
    return wp.vec2(look.gloss, 14.0)


@wp.func
def unshadowed(q: wp.vec4, shadow: wp.array2d(dtype=float)) -> float:
    """Share of the key light that reaches shadow-map position q, from four of its cells."""
    lit = wp.float32(0.0)
    for k in range(4):
        sx = int(q[0] + 1.1 * float(k & 1) - 0.05)
        sy = int(q[1] + 1.1 * float(k >> 1) - 0.05)
        if sx < 0 or sy < 0 or sx >= shadow.shape[1] or sy >= shadow.shape[0]:
            lit += 0.25
        elif shadow[sy, sx] < q[2] + 0.03:
            lit += 0.25
    return lit


@wp.func
def lamps(
    mat: int, base: wp.vec3, shine: wp.vec2, n: wp.vec3, view: wp.vec3, open_: float, lit: float, look: Look
) -> wp.vec3:
    """Light leaving a surface: key with wrap-around, fill, rim, hemisphere, and the highlights of key and fill."""
    nk = wp.dot(n, look.key_dir)
    kd = wp.max(0.0, (nk + 0.18) / 1.18)
    soft = wp.vec3(kd, kd, kd)
    if mat == SKIN or mat == HAND:  # light bleeding through skin: red reaches further round
        soft = wp.vec3(wp.max(0.0, (nk + 0.30) / 1.30), kd, wp.max(0.0, (nk + 0.12) / 1.12))
    fd = wp.max(0.0, (wp.dot(n, look.fill_dir) + 0.3) / 1.3)
    rd = wp.max(0.0, wp.dot(n, look.rim_dir))
    light = wp.cw_mul(look.key, soft) * lit + look.fill * fd + look.rim * rd
    light += mix(look.ground, look.sky, 0.5 + 0.5 * n[1]) * open_
    light = light * (0.35 + 0.65 * open_)
    rim = 1.0 - wp.max(0.0, wp.dot(n, view))
    fres = 0.25 + 0.75 * rim * rim * rim
    key = wp.pow(wp.max(0.0, wp.dot(n, wp.normalize(look.key_dir + view))), shine[1]) * lit * 2.0
    fill = wp.pow(wp.max(0.0, wp.dot(n, wp.normalize(look.fill_dir + view))), shine[1])
    colour = wp.cw_mul(base, light) + (look.key * key + look.fill * fill) * shine[0] * fres
    if mat == EYE:
        colour = colour * (0.5 + 0.5 * open_)
    return colour
